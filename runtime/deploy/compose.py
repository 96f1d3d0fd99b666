"""From a workflow to a compose file: its servers, and the processes of the plan as containers. Pure.

    document = compose_file(workflow, ComposeOptions(image="krt", folder="./workflows/hello"))

A text of the file in which compose finds `$` is a reference to a variable; every literal `$` is doubled.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.deploy import compose_servers
from runtime.deploy.compose_drivers import ADVERTISED, check_published_ports, driver_keys
from runtime.deploy.compose_resources import Devices, containers_of, resource_keys
from runtime.deploy.compose_servers import INFLUX, MONGO, NATS
from runtime.deploy.drivers import ALL_ADDRESSES, process_name, with_ports
from runtime.deploy.plan import Target, plan, uses_folder
from runtime.deploy.process import Process
from runtime.deploy.store_uris import INFLUX_SCHEMES, MONGO_SCHEMES, check_store_uri
from runtime.errors import ConfigError
from runtime.settings import DEFAULT_GRACE_S
from runtime.spec.model import Workflow

# Where the image has the workflow's folder and the shared data; docker/Dockerfile makes both.
WORKFLOW_FOLDER = "/workflow"
DATA_FOLDER = "/data"
DATA_VOLUME = "data"
# How the URIs of SQLite files begin that all containers share.
SQLITE_FILES = f"sqlite:///{DATA_FOLDER}/"

# Seconds after the grace of a process until its container is killed: for `teardown` and the last writes.
KILL_MARGIN_S = 5

# By server, the variable by which a process knows it.
VARIABLES = {NATS: "KRT_NATS_SERVER", MONGO: "KRT_MONGO_URI", INFLUX: "KRT_INFLUX_URI"}
# Their values may hold references.
IN_COMPOSE_NOTATION = frozenset(
    {"KRT_MONGO_URI", "KRT_INFLUX_URI", "KRT_INFLUX_TOKEN", "KRT_INFLUX_ORG", "KRT_INFLUX_BUCKET"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeOptions:
    """What differs between compose files of one workflow.

    folder: the workflow's, relative to the compose file. mongo_uri, influx_uri: "" for a server in the file; a server
    that runs elsewhere, perhaps with references (`${NAME}`); or a SQLite file below `DATA_FOLDER`, which all containers
    share. gpu_image: of processes with GPUs, "" for `image`. gpus: ids of those that the engine has, "" for 0, 1 and so
    on, or `none`. share_gpus: let processes share too few.
    """

    image: str
    folder: str
    gpu_image: str = ""
    gpus: str = ""
    share_gpus: bool = False
    runtime_id: str = "local"
    mongo_uri: str = ""
    influx_uri: str = ""


def compose_file(workflow: Workflow, options: ComposeOptions) -> dict[str, Any]:
    """Return the document of a compose file. Raises ConfigError for a name or a port that is taken, and for a URI."""
    check_store_uri("--mongo-uri", options.mongo_uri, MONGO_SCHEMES, files=SQLITE_FILES)
    check_store_uri("--influx-uri", options.influx_uri, INFLUX_SCHEMES, files=SQLITE_FILES)
    workflow = with_ports(workflow)
    check_published_ports(workflow)
    services = _servers(options)
    _check_names(workflow, services)
    waited_for = list(services)
    drivers = {process_name(driver.name): driver for driver in workflow.drivers}
    processes = plan(workflow, _target(workflow, options))
    devices = Devices(processes, options.gpus, sharing=options.share_gpus)
    for process in processes:
        needs = [server for server in waited_for if VARIABLES[server] in process.environment]
        for container in containers_of(process):
            gpus = devices.take(container)
            service = _service(container, options, needs, gpus)
            if driver := drivers.get(process.name):
                service |= driver_keys(driver)
                service["environment"]["KRT_ADVERTISE_ADDRESS"] = ADVERTISED
            _add(services, container.name, service)
    return {"name": workflow.name, "services": services, "volumes": _named_volumes(services)}


def _check_names(workflow: Workflow, servers: Collection[str]) -> None:
    for node in workflow.nodes:
        if node.name in servers:
            raise ConfigError(f'node "{node.name}" is called like a server of the compose file; give it another name')


def _add(services: dict[str, Any], name: str, service: dict[str, Any]) -> None:
    if name in services:
        raise ConfigError(f'two services of the compose file are called "{name}"; give the node another name')
    services[name] = service


def _target(workflow: Workflow, options: ComposeOptions) -> Target:
    token, organization, bucket = _influx_access(options)
    return Target(
        nats_servers=(compose_servers.NATS_URL,),
        mongo_uri=options.mongo_uri or compose_servers.MONGO_URI,
        influx_uri=options.influx_uri or compose_servers.INFLUX_URI,
        influx_token=token,
        influx_org=organization,
        influx_bucket=bucket,
        base_path=WORKFLOW_FOLDER,
        runtime_id=options.runtime_id,
        # The values are not known here, and are not wanted: `_variables` writes references.
        environment=dict.fromkeys(workflow.secrets, ""),
        listen=ALL_ADDRESSES,
    )


def _influx_access(options: ComposeOptions) -> tuple[str, str, str]:
    """Return token, organization and bucket."""
    if not options.influx_uri:
        return compose_servers.INFLUX_TOKEN, compose_servers.INFLUX_ORG, options.runtime_id
    if options.influx_uri.startswith(SQLITE_FILES):
        return "", "", ""
    return "${KRT_INFLUX_TOKEN:-}", "${KRT_INFLUX_ORG:-}", "${KRT_INFLUX_BUCKET:-}"


def _servers(options: ComposeOptions) -> dict[str, Any]:
    services = {NATS: compose_servers.nats()}
    if not options.mongo_uri:
        services[MONGO] = compose_servers.mongo()
    if not options.influx_uri:
        services[INFLUX] = compose_servers.influx(bucket=options.runtime_id)
    return services


def _service(process: Process, options: ComposeOptions, needs: Collection[str], gpus: Sequence[str]) -> dict[str, Any]:
    """Return the container of a process. needs: the servers of the file that it uses. gpus: ids of its own."""
    service: dict[str, Any] = {
        "image": process.image or (options.gpu_image if gpus and options.gpu_image else options.image),
        "command": list(process.arguments),
        "environment": _variables(process),
        # For a quiet start only: every process waits for its servers by itself, whenever they are away.
        "depends_on": {server: {"condition": "service_healthy"} for server in needs},
        "restart": "unless-stopped",
        "stop_grace_period": f"{DEFAULT_GRACE_S + KILL_MARGIN_S:g}s",
    }
    if volumes := _volumes(process, options):
        service["volumes"] = volumes
    if process.replicas > 1:
        service["scale"] = process.replicas
    if resources := resource_keys(process.resources, gpus):
        service["deploy"] = {"resources": resources}
    return service


def _variables(process: Process) -> dict[str, str]:
    """Return the variables of the plan in compose's notation."""
    variables = {}
    for name, value in process.environment.items():
        if name in process.secrets:
            variables[name] = f"${{{name}:?a secret of {process.name}}}"
        else:
            variables[name] = value if name in IN_COMPOSE_NOTATION else _literal(value)
    return variables


def _volumes(process: Process, options: ComposeOptions) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    if uses_folder(process):
        source = _literal(options.folder)
        volumes.append({"type": "bind", "source": source, "target": WORKFLOW_FOLDER, "read_only": True})
    if any(process.environment.get(VARIABLES[server], "").startswith(SQLITE_FILES) for server in (MONGO, INFLUX)):
        volumes.append({"type": "volume", "source": DATA_VOLUME, "target": DATA_FOLDER})
    return volumes


def _named_volumes(services: Mapping[str, Any]) -> dict[str, Any]:
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    return {mount["source"]: {} for mount in mounts if mount["type"] == "volume"}


def _literal(value: str) -> str:
    return value.replace("$", "$$")
