"""From a workflow to its processes. Pure: the first file to read about deploying.

They are the manager, the writer, runners of algorithms, nodes and drivers.

    processes = plan(workflow, Target(nats_servers=("nats://127.0.0.1:4222",), mongo_uri=…, influx_uri=…, base_path=…))

Every process is `python -m runtime <kind>` and is told everything by KRT_* variables, so the same plan becomes child
processes (`supervisor.py`) or containers.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.deploy.drivers import driver_process, driver_spec, process_name
from runtime.deploy.gpus import with_gpu_variables
from runtime.deploy.manager_spec import manager_spec
from runtime.deploy.node_spec import fused_node, node_spec
from runtime.deploy.process import Process
from runtime.deploy.wiring import inputs_of, object_store_of, scopes_of, stream_of
from runtime.errors import ConfigError
from runtime.settings import DEFAULT_GRACE_S
from runtime.spec import names
from runtime.spec.driver import LOOPBACK
from runtime.spec.model import AlgorithmRunner, Driver, Node, Workflow
from runtime.spec.node import NodeSpec

# Names of the runtime's own processes; the dot keeps them apart from nodes, whose names hold none.
MANAGER = "krt.manager"
WRITER = "krt.writer"
# Nodes need the manager's streams and the writer, which need nothing of each other.
SERVICE_STAGE, NODE_STAGE = range(2)

# Hex digits of a handler's version.
VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the processes of a workflow run.

    influx_token, influx_org, influx_bucket: of an InfluxDB 2; "" leaves them to the environment of the processes.
    base_path: the workflow's folder as the processes see it. grace_s: from the request to stop until a node gives its
    deliveries back. handler_versions: by node, see `handler_versions`. environment: what the `secrets` of nodes and
    drivers name. listen: address that the ports of drivers are bound to.
    credentials: folder of a process's credentials for NATS, by the name of the process; others take the one that their
    own environment names.
    """

    nats_servers: tuple[str, ...]
    mongo_uri: str
    influx_uri: str
    base_path: str
    influx_token: str = field(default="", repr=False)
    influx_org: str = ""
    influx_bucket: str = ""
    runtime_id: str = "local"
    writer_subject: str = names.WRITER_SUBJECT
    log_level: str = "INFO"
    grace_s: float = DEFAULT_GRACE_S
    listen: str = LOOPBACK
    handler_versions: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def plan(workflow: Workflow, target: Target) -> list[Process]:
    """Return the processes in the order of their start. Raises ConfigError with every missing secret."""
    if not names.is_name(target.runtime_id):
        raise ConfigError(f'"{target.runtime_id}" is no runtime id; use a-z, 0-9 and "-": local')
    _check_secrets(workflow, target)
    processes = [
        _manager(workflow, target),
        _writer(workflow, target),
        *(_runner(workflow, runner, target) for runner in workflow.algorithms),
        *(_node(workflow, chain[0], target) for chain in workflow.chains),
        *(_driver(workflow, driver, target) for driver in workflow.drivers),
    ]
    return with_gpu_variables(processes)


def runner_process_name(runner: str) -> str:
    """Return the name of the process of a runner of algorithms; the dot keeps it apart from nodes."""
    return f"krt.algorithms.{runner}"


def uses_folder(process: Process) -> bool:
    """Say whether a process loads something of the workflow's folder."""
    return process.stage > SERVICE_STAGE or "KRT_ADAPTER" in process.environment


def handler_versions(workflow: Workflow) -> dict[str, str]:
    """Return a short hash of every node's code, "" where it cannot be read; the one function with I/O."""
    return {node.name: _version_of(workflow.folder / file for file in node.code_files) for node in workflow.nodes}


# --- processes ---


def _manager(workflow: Workflow, target: Target) -> Process:
    spec = manager_spec(workflow, target.runtime_id)
    environment = {**_common(target, MANAGER, spec.stream), "KRT_MANAGER_SPEC": spec.model_dump_json()}
    return Process(name=MANAGER, arguments=("manager",), environment=environment, stage=SERVICE_STAGE)


def _writer(workflow: Workflow, target: Target) -> Process:
    stream = stream_of(workflow, target.runtime_id)
    environment = {**_common(target, WRITER, stream), **_documents(target), "KRT_NATS_STREAM": stream}
    return Process(name=WRITER, arguments=("writer",), environment=environment, stage=SERVICE_STAGE)


def _node(workflow: Workflow, node: Node, target: Target) -> Process:
    """Return the process of a node, which those that are fused with it share."""
    common = _common(target, node.name, stream_of(workflow, target.runtime_id))
    return Process(
        name=node.name,
        arguments=("node",),
        environment={
            **{name: value for each in workflow.chain_of(node) for name, value in _own(each, target).items()},
            **common,
            **_documents(target),
            **_node_variables(workflow, node, target),
        },
        replicas=node.replicas,
        resources=node.resources,
        secrets={name: place for each in workflow.chain_of(node) for name, place in _secrets(each).items()},
        image=node.image,
        stage=NODE_STAGE,
    )


def _runner(workflow: Workflow, runner: AlgorithmRunner, target: Target) -> Process:
    name = runner_process_name(runner.name)
    return Process(
        name=name,
        arguments=("algorithms",),
        environment={
            **_own(runner, target),
            **_common(target, name, stream_of(workflow, target.runtime_id)),
            "KRT_ADAPTER": f"{target.base_path}/{runner.adapter}",
            "KRT_RUNNER_NAME": runner.name,
            "KRT_ALGORITHMS_CONCURRENCY": str(runner.concurrency),
            "KRT_ALGORITHMS_TIMEOUT": f"{round(runner.timeout_s * 1000)}ms",
            "KRT_ALGORITHMS_ISOLATION": runner.isolation,
        },
        replicas=runner.replicas,
        resources=runner.resources,
        secrets=_secrets(runner),
        image=runner.image,
        # Before the nodes that send work to it, and after them at the end.
        stage=SERVICE_STAGE,
    )


def _driver(workflow: Workflow, driver: Driver, target: Target) -> Process:
    spec = driver_spec(driver, workflow, stream_of(workflow, target.runtime_id), listen=target.listen)
    process = driver_process(
        spec,
        nats_servers=target.nats_servers,
        base_path=target.base_path,
        environment={**_own(driver, target), **_common(target, process_name(driver.name), spec.stream)},
        replicas=driver.replicas,
        resources=driver.resources,
    )
    return replace(process, secrets=_secrets(driver), image=driver.image)


def _own(part: Node | Driver | AlgorithmRunner, target: Target) -> dict[str, str]:
    """Return the variables that the workflow file gives to a process."""
    return {**part.env, **{name: target.environment[name] for name in part.secrets}}


def _secrets(part: Node | Driver | AlgorithmRunner) -> dict[str, str]:
    """Return the variables that are secrets, each with its place in a cluster, "" where it has none of its own."""
    return {name: part.secret_places.get(name, "") for name in part.secrets}


def _common(target: Target, process: str, stream: str) -> dict[str, str]:
    folder = target.credentials.get(process, "")
    return {
        "KRT_NATS_SERVER": ",".join(target.nats_servers),
        **({"KRT_NATS_CREDENTIALS": folder} if folder else {}),
        "KRT_NATS_INBOX_PREFIX": names.inbox_prefix(stream, process),
        "KRT_LOG_LEVEL": target.log_level,
        "KRT_SHUTDOWN_GRACE": f"{target.grace_s:g}",
    }


def _documents(target: Target) -> dict[str, str]:
    return {"KRT_NATS_MONGO_WRITER": target.writer_subject, "KRT_MONGO_URI": target.mongo_uri}


def _measurements(target: Target) -> dict[str, str]:
    given = {
        "KRT_INFLUX_URI": target.influx_uri,
        "KRT_INFLUX_TOKEN": target.influx_token,
        "KRT_INFLUX_ORG": target.influx_org,
        "KRT_INFLUX_BUCKET": target.influx_bucket,
    }
    # An empty one would hide the value that the supervisor's own environment has.
    return {name: value for name, value in given.items() if value}


def _node_variables(workflow: Workflow, node: Node, target: Target) -> dict[str, str]:
    stream = stream_of(workflow, target.runtime_id)
    project, of_workflow, of_node = scopes_of(workflow, node, target.runtime_id)
    spec = _node_spec(workflow, node, target)
    return {
        "KRT_WORKFLOW_NAME": workflow.name,
        # KRE gives versions an id beside their name; ours have only the name.
        "KRT_VERSION_ID": workflow.version,
        "KRT_VERSION": workflow.version,
        "KRT_NODE_NAME": node.name,
        "KRT_RUNTIME_ID": target.runtime_id,
        "KRT_NATS_STREAM": stream,
        "KRT_NATS_INPUTS": ",".join(inputs_of(workflow, node, stream)),
        "KRT_NATS_OUTPUT": names.node_subject(stream, node.name),
        "KRT_BASE_PATH": target.base_path,
        # A node of another kind has no file.
        "KRT_HANDLER_PATH": node.handler or f"krt:{node.kind}",
        **_measurements(target),
        "KRT_NATS_KEY_VALUE_STORE_PROJECT": project,
        "KRT_NATS_KEY_VALUE_STORE_WORKFLOW": of_workflow,
        "KRT_NATS_KEY_VALUE_STORE_NODE": of_node,
        **_object_store_variable(workflow, node, target),
        "KRT_NODE_SPEC": spec.model_dump_json(),
    }


def _node_spec(workflow: Workflow, node: Node, target: Target) -> NodeSpec:
    """Return what a process is told about its node, and about those that are fused with it."""
    versions = target.handler_versions
    spec = node_spec(workflow, node, target.runtime_id, versions.get(node.name, ""))
    behind = (
        fused_node(workflow, each, target.runtime_id, versions.get(each.name, ""))
        for each in workflow.chain_of(node)[1:]
    )
    return spec.model_copy(update={"behind": tuple(behind)})


def _object_store_variable(workflow: Workflow, node: Node, target: Target) -> dict[str, str]:
    if not node.object_store:
        return {}
    return {"KRT_NATS_OBJECT_STORE": object_store_of(workflow, node.object_store, target.runtime_id)}


def _check_secrets(workflow: Workflow, target: Target) -> None:
    needed = [(f'node "{node.name}"', node.secrets) for node in workflow.nodes]
    needed += [(f'driver "{driver.name}"', driver.secrets) for driver in workflow.drivers]
    needed += [(f'runner "{runner.name}"', runner.secrets) for runner in workflow.algorithms]
    problems = [
        f"{title} needs the secret {name}, which is not set: export {name} before the start"
        for title, secrets in needed
        for name in secrets
        if name not in target.environment
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _version_of(files: Iterable[Path]) -> str:
    try:
        code = b"".join(file.read_bytes() for file in files)
    except OSError:
        return ""
    return hashlib.sha256(code).hexdigest()[:VERSION_DIGITS] if code else ""
