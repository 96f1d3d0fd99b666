"""From a workflow to a compose file: NATS, and the processes of the plan as containers. Pure.

    document = compose_file(workflow, ComposeOptions(image="krt", folder="./workflows/hello"))

A text of the file in which compose finds `$` is a reference to a variable; every literal `$` is doubled.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from runtime.deploy.plan import NODE_STAGE, Target, plan
from runtime.deploy.process import Process
from runtime.errors import ConfigError
from runtime.settings import DEFAULT_GRACE_S, redact
from runtime.spec.model import Workflow

NATS = "nats"
# Not the plain tag: that image holds nothing but the server, and so no program for the health check.
NATS_IMAGE = "docker.io/library/nats:2.12-alpine"
NATS_PORT = 4222
NATS_MONITORING_PORT = 8222

# Where the image has the workflow's folder and the shared data; docker/Dockerfile makes both.
WORKFLOW_FOLDER = "/workflow"
DATA_FOLDER = "/data"
DATA_URI = f"sqlite:///{DATA_FOLDER}/data.db"

# Seconds after the grace of a process until its container is killed: for `teardown` and the last writes.
KILL_MARGIN_S = 5

MONGO_SCHEMES = ("mongodb", "mongodb+srv")
INFLUX_SCHEMES = ("http", "https")
# InfluxDB's, taken from the environment of `docker compose` as they are there.
INFLUX_VARIABLES = ("KRT_INFLUX_TOKEN", "KRT_INFLUX_ORG", "KRT_INFLUX_BUCKET")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeOptions:
    """What differs between compose files of one workflow.

    folder: the workflow's, relative to the compose file. mongo_uri, influx_uri: of servers that run elsewhere, and may
    hold references (`${NAME}`); "" keeps the data in one SQLite file that all containers share.
    """

    image: str
    folder: str
    runtime_id: str = "local"
    mongo_uri: str = ""
    influx_uri: str = ""


def compose_file(workflow: Workflow, options: ComposeOptions) -> dict[str, Any]:
    """Return the document of a compose file. Raises ConfigError for a name that is taken and for a URI."""
    _check(workflow, options)
    secrets = {node.name: frozenset(node.secrets) for node in workflow.nodes}
    services = {NATS: _nats()}
    for process in plan(workflow, _target(workflow, options)):
        services[process.name] = _service(process, options, secrets.get(process.name, frozenset()))
    volumes: dict[str, Any] = {NATS: {}}
    if _shares_data(options):
        volumes["data"] = {}
    return {"name": workflow.name, "services": services, "volumes": volumes}


def _check(workflow: Workflow, options: ComposeOptions) -> None:
    if any(node.name == NATS for node in workflow.nodes):
        raise ConfigError(f'node "{NATS}" is called like the NATS server of the compose file; give it another name')
    _check_uri("--mongo-uri", options.mongo_uri, MONGO_SCHEMES)
    _check_uri("--influx-uri", options.influx_uri, INFLUX_SCHEMES)


def _check_uri(option: str, uri: str, schemes: tuple[str, ...]) -> None:
    if not uri:
        return
    parts = urlsplit(uri)
    if parts.scheme not in schemes:
        raise ConfigError(f"{option} is '{redact(uri)}': expected {' or '.join(f'{each}://…' for each in schemes)}")
    if parts.password and not re.fullmatch(r"\$\{\w+\}", parts.password):
        raise ConfigError(
            f"{option} holds a password, which a file must not; write ${{NAME}} there, and set NAME later"
        )


def _target(workflow: Workflow, options: ComposeOptions) -> Target:
    return Target(
        nats_servers=(f"nats://{NATS}:{NATS_PORT}",),
        mongo_uri=options.mongo_uri or DATA_URI,
        influx_uri=options.influx_uri or DATA_URI,
        base_path=WORKFLOW_FOLDER,
        runtime_id=options.runtime_id,
        # The values are not known here, and are not wanted: `_variables` writes references.
        environment={name: "" for node in workflow.nodes for name in node.secrets},
    )


def _shares_data(options: ComposeOptions) -> bool:
    return not (options.mongo_uri and options.influx_uri)


# --- services ---


def _nats() -> dict[str, Any]:
    url = f"http://127.0.0.1:{NATS_MONITORING_PORT}/healthz?js-enabled-only=true"
    return {
        "image": NATS_IMAGE,
        "command": ["--jetstream", "--store_dir", "/data", "--http_port", str(NATS_MONITORING_PORT)],
        # For `krt send` and `krt status` on this machine, and for nobody else.
        "ports": [f"127.0.0.1:{NATS_PORT}:{NATS_PORT}"],
        "volumes": [{"type": "volume", "source": NATS, "target": "/data"}],
        "healthcheck": {
            "test": ["CMD", "wget", "-q", "-O", "/dev/null", url],
            "interval": "5s",
            "timeout": "3s",
            "retries": 5,
        },
        "restart": "unless-stopped",
    }


def _service(process: Process, options: ComposeOptions, secrets: frozenset[str]) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": options.image,
        "command": list(process.arguments),
        "environment": _variables(process, options, secrets),
        # The rest waits by itself: a node for its stream, and a request to the writer for the writer.
        "depends_on": {NATS: {"condition": "service_healthy"}},
        "restart": "unless-stopped",
        "stop_grace_period": f"{DEFAULT_GRACE_S + KILL_MARGIN_S:g}s",
    }
    if volumes := _volumes(process, options):
        service["volumes"] = volumes
    if process.replicas > 1:
        service["scale"] = process.replicas
    return service


def _variables(process: Process, options: ComposeOptions, secrets: frozenset[str]) -> dict[str, str]:
    """Return the variables of the plan in compose's notation."""
    # URIs are given in it already.
    given = {"KRT_MONGO_URI": options.mongo_uri, "KRT_INFLUX_URI": options.influx_uri}
    variables = {}
    for name, value in process.environment.items():
        if name in secrets:
            variables[name] = f"${{{name}:?a secret of node {process.name}}}"
        else:
            variables[name] = given.get(name) or _literal(value)
    if process.stage == NODE_STAGE and options.influx_uri:
        variables |= {name: f"${{{name}:-}}" for name in INFLUX_VARIABLES}
    return variables


def _volumes(process: Process, options: ComposeOptions) -> list[Mapping[str, Any]]:
    volumes: list[Mapping[str, Any]] = []
    if process.stage == NODE_STAGE:
        source = _literal(options.folder)
        volumes.append({"type": "bind", "source": source, "target": WORKFLOW_FOLDER, "read_only": True})
    if _shares_data(options) and "KRT_MONGO_URI" in process.environment:
        volumes.append({"type": "volume", "source": "data", "target": DATA_FOLDER})
    return volumes


def _literal(value: str) -> str:
    return value.replace("$", "$$")
