"""From a workflow to its processes. Pure: the first file to read about deploying.

They are the manager, the writer, runners of algorithms, nodes and drivers.

    processes = plan(workflow, Target(nats_servers=("nats://127.0.0.1:4222",), mongo_uri=…, influx_uri=…, base_path=…))

Every process is `python -m runtime <kind>` and is told everything by KRT_* variables, so the same plan becomes child
processes (`supervisor.py`) or containers.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.deploy.batch import artifact_stores, runs_buckets
from runtime.deploy.drivers import driver_process, driver_spec, process_name
from runtime.deploy.process import Process
from runtime.errors import ConfigError
from runtime.settings import DEFAULT_GRACE_S
from runtime.spec import names
from runtime.spec.driver import LOOPBACK
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec, ObjectStoreSpec
from runtime.spec.model import AlgorithmRunner, Driver, Node, Source, Workflow, entrypoint
from runtime.spec.node import JoinSpec, NodeSpec, Partitions, StateSpec

# Names of the runtime's own processes; the dot keeps them apart from nodes, whose names hold none.
MANAGER = "krt.manager"
WRITER = "krt.writer"
# Nodes need the manager's streams and the writer, which need nothing of each other.
SERVICE_STAGE, NODE_STAGE = range(2)

# Messages that may wait at once, unacknowledged: the first part of each set of a join until its time is over, and on a
# node that dispatches those whose algorithm nobody serves, of kind batch those whose runs another worker has. Beyond it
# they hold up all others.
MAX_WAITING = 1_000_000
# Seconds that a join remembers a set after its last part: for parts that come again or late, and for redriving it.
JOIN_MEMORY_S = 2 * 3600.0

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
    return [
        _manager(workflow, target),
        _writer(workflow, target),
        *(_runner(workflow, runner, target) for runner in workflow.algorithms),
        *(_node(workflow, node, target) for node in workflow.nodes),
        *(_driver(workflow, driver, target) for driver in workflow.drivers),
    ]


def runner_process_name(runner: str) -> str:
    """Return the name of the process of a runner of algorithms; the dot keeps it apart from nodes."""
    return f"krt.algorithms.{runner}"


def stream_of(workflow: Workflow, runtime_id: str) -> str:
    """Return the stream of the deployed workflow."""
    return names.stream(runtime_id, workflow.version, workflow.name)


def durable_of(node: Node) -> str:
    """Return the consumer of a node."""
    return names.durable(node.name, [str(source) for source in node.sources])


def object_store_of(workflow: Workflow, name: str, runtime_id: str) -> str:
    """Return what an object store of the file is called on NATS. Raises ConfigError for one that is not declared."""
    store = workflow.objects.get(name)
    if store is None:
        known = ", ".join(workflow.objects) or "none"
        raise ConfigError(f'workflow "{workflow.name}" has no object store "{name}"; it has {known}')
    owner = workflow.name if store.scope == "workflow" else ""
    return names.object_store(runtime_id, workflow.version, owner, name)


def handler_versions(workflow: Workflow) -> dict[str, str]:
    """Return a short hash of every node's code, "" where it cannot be read; the one function with I/O."""
    return {node.name: _version_of(workflow.folder / file for file in node.code_files) for node in workflow.nodes}


def error_source(workflow: Workflow, node: Node) -> Source:
    """Return the output of a node on which its ERRORs go, so that they reach the output node, which answers with them.

    That is the plain output, unless only a channel leads there. Where nothing leads there, nobody waits for an answer.
    """
    plain = Source(node=node.name)
    leading = _leading_to_output(workflow)
    ways = {source for reader in workflow.nodes if reader.name in leading for source in reader.sources}
    channels = sorted(source.channel for source in ways if source.node == node.name)
    if node.name == workflow.output.node or plain in ways or not channels:
        return plain
    return Source(node=node.name, channel=channels[0])


def manager_spec(workflow: Workflow, runtime_id: str) -> ManagerSpec:
    """Return what the workflow has on NATS."""
    stream = stream_of(workflow, runtime_id)
    return ManagerSpec(
        stream=stream,
        subjects=tuple(names.stream_subjects(stream)),
        storage=workflow.stream.storage,
        replicas=workflow.stream.replicas,
        max_bytes=workflow.stream.max_bytes,
        keep_s=workflow.stream.keep_s,
        duplicate_window_s=workflow.dedup_window_s,
        consumers=tuple(consumer for node in workflow.nodes for consumer in _consumers(workflow, node, stream)),
        dead_letters=_dead_letters(workflow, stream),
        buckets=_buckets(workflow, stream, runtime_id),
        applied_bucket=names.applied_bucket(stream),
        object_stores=tuple(
            ObjectStoreSpec(
                name=object_store_of(workflow, name, runtime_id), keep_s=store.keep_s or 0.0, max_bytes=store.max_bytes
            )
            for name, store in workflow.objects.items()
        )
        + artifact_stores(workflow, stream),
        aging_buckets=_aging_buckets(workflow, stream),
        entrypoint=workflow.partitions_of(entrypoint()),
        atomic=any(node.atomic for node in workflow.nodes),
    )


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
    common = _common(target, node.name, stream_of(workflow, target.runtime_id))
    return Process(
        name=node.name,
        arguments=("node",),
        environment={
            **_own(node, target),
            **common,
            **_documents(target),
            **_node_variables(workflow, node, target),
        },
        replicas=node.replicas,
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
        # Before the nodes that send work to it, and after them at the end.
        stage=SERVICE_STAGE,
    )


def _driver(workflow: Workflow, driver: Driver, target: Target) -> Process:
    spec = driver_spec(driver, workflow, stream_of(workflow, target.runtime_id), listen=target.listen)
    return driver_process(
        spec,
        nats_servers=target.nats_servers,
        base_path=target.base_path,
        environment={**_own(driver, target), **_common(target, process_name(driver.name), spec.stream)},
        replicas=driver.replicas,
    )


def _own(part: Node | Driver | AlgorithmRunner, target: Target) -> dict[str, str]:
    """Return the variables that the workflow file gives to a process."""
    return {**part.env, **{name: target.environment[name] for name in part.secrets}}


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
    project, of_workflow, of_node = _scopes(workflow, node, target.runtime_id)
    return {
        "KRT_WORKFLOW_NAME": workflow.name,
        # KRE gives versions an id beside their name; ours have only the name.
        "KRT_VERSION_ID": workflow.version,
        "KRT_VERSION": workflow.version,
        "KRT_NODE_NAME": node.name,
        "KRT_RUNTIME_ID": target.runtime_id,
        "KRT_NATS_STREAM": stream,
        "KRT_NATS_INPUTS": ",".join(_inputs(workflow, node, stream)),
        "KRT_NATS_OUTPUT": names.node_subject(stream, node.name),
        "KRT_BASE_PATH": target.base_path,
        # A node of another kind has no file.
        "KRT_HANDLER_PATH": node.handler or f"krt:{node.kind}",
        **_measurements(target),
        "KRT_NATS_KEY_VALUE_STORE_PROJECT": project,
        "KRT_NATS_KEY_VALUE_STORE_WORKFLOW": of_workflow,
        "KRT_NATS_KEY_VALUE_STORE_NODE": of_node,
        **_object_store_variable(workflow, node, target),
        "KRT_NODE_SPEC": _node_spec(workflow, node, target).model_dump_json(),
    }


def _object_store_variable(workflow: Workflow, node: Node, target: Target) -> dict[str, str]:
    if not node.object_store:
        return {}
    return {"KRT_NATS_OBJECT_STORE": object_store_of(workflow, node.object_store, target.runtime_id)}


def _node_spec(workflow: Workflow, node: Node, target: Target) -> NodeSpec:
    is_output = workflow.output.node == node.name
    errors_to = error_source(workflow, node)
    stream = stream_of(workflow, target.runtime_id)
    return NodeSpec(
        durable=durable_of(node),
        retry=node.retry,
        timeout_s=node.timeout_s,
        concurrency=node.concurrency,
        exit_channel=(workflow.output.channel or names.MAIN_CHANNEL) if is_output else None,
        error_subject=_subject(errors_to, stream),
        keep_dead_letters=node.dead_letter_keep_s is not None,
        handler_version=target.handler_versions.get(node.name, ""),
        partitions=node.partitions,
        state=StateSpec(bucket=names.state_bucket(stream, node.name), type=node.state.type) if node.state else None,
        partitioned=_partitioned(workflow, node, stream),
        join=_join(node, stream),
        atomic=node.atomic,
        models=node.models,
        dispatch=node.dispatch,
        batch=node.batch,
    )


# --- what they share ---


def _consumers(workflow: Workflow, node: Node, stream: str) -> Iterator[ConsumerSpec]:
    """Yield the consumer of a node, or those of the partitions of an ordered one."""
    durable, inputs = durable_of(node), _inputs(workflow, node, stream)
    if node.partitions is None:
        waits = bool(node.join or node.dispatch or node.batch)
        yield ConsumerSpec(durable=durable, filter_subjects=inputs, max_ack_pending=MAX_WAITING if waits else None)
    for number in range(node.partitions or 0):
        subjects = names.partition_inputs(inputs, number)
        yield ConsumerSpec(
            durable=names.partition_durable(durable, number), filter_subjects=subjects, max_ack_pending=1
        )


def _inputs(workflow: Workflow, node: Node, stream: str) -> tuple[str, ...]:
    """Return the subjects of the node's sources, and for each the one on which its dead letters are redriven.

    Of an output that is in partitions for another node's sake, an unordered node reads all partitions together.
    """
    subjects = [_subject(source, stream) for source in node.sources]
    if node.partitions is None:
        shared = [source for source in node.sources if workflow.partitions_of(source)]
        subjects += [names.partition_subject(_subject(source, stream), "*") for source in shared]
    return (*subjects, *(names.redrive_subject(node.name, subject) for subject in subjects))


def _partitioned(workflow: Workflow, node: Node, stream: str) -> dict[str, Partitions]:
    """Return how the node publishes those of its outputs that somebody reads in order."""
    read = {source for reader in workflow.nodes for source in reader.sources if source.node == node.name}
    found = {_subject(source, stream): workflow.partitions_of(source) for source in sorted(read, key=str)}
    return {subject: partitions for subject, partitions in found.items() if partitions}


def _subject(source: Source, stream: str) -> str:
    if source.node == names.ENTRYPOINT:
        return names.entrypoint_subject(stream)
    return names.node_subject(stream, source.node, source.channel)


def _leading_to_output(workflow: Workflow) -> set[str]:
    """Return the output node and every node that something of leads there."""
    leading: set[str] = set()
    waiting = [workflow.output.node]
    while waiting:
        name = waiting.pop()
        if name not in leading and name != names.ENTRYPOINT:
            leading.add(name)
            waiting += [source.node for source in workflow.node(name).sources]
    return leading


def _join(node: Node, stream: str) -> JoinSpec | None:
    if node.join is None:
        return None
    subjects = (_subject(source, stream) for source in node.sources)
    return JoinSpec(
        bucket=names.join_bucket(stream, node.name),
        parts=dict(zip(subjects, node.join.parts, strict=True)),
        key=node.join.key,
        timeout_s=node.join.timeout_s,
        partial=node.join.on_timeout == "partial",
    )


def _aging_buckets(workflow: Workflow, stream: str) -> dict[str, float]:
    buckets = {names.state_bucket(stream, node.name): node.state.ttl_s or 0.0 for node in workflow.nodes if node.state}
    for node in workflow.nodes:
        if node.join:
            buckets[names.join_bucket(stream, node.name)] = node.join.timeout_s + JOIN_MEMORY_S
    return buckets | runs_buckets(workflow, stream)


def _dead_letters(workflow: Workflow, stream: str) -> DeadLetterSpec | None:
    kept_s = [node.dead_letter_keep_s for node in workflow.nodes if node.dead_letter_keep_s is not None]
    if not kept_s:
        return None
    own = names.dead_letter_stream(stream)
    return DeadLetterSpec(stream=own, subjects=tuple(names.stream_subjects(own)), keep_s=max(kept_s))


def _buckets(workflow: Workflow, stream: str, runtime_id: str) -> dict[str, dict[str, str]]:
    buckets: dict[str, dict[str, str]] = {names.attempts_bucket(stream): {}}
    for node in workflow.nodes:
        project, of_workflow, of_node = _scopes(workflow, node, runtime_id)
        buckets |= {project: {}, of_workflow: dict(workflow.config), of_node: dict(node.config)}
    return buckets


def _scopes(workflow: Workflow, node: Node, runtime_id: str) -> tuple[str, str, str]:
    """Return the buckets of the three scopes of configuration: project, workflow, node."""
    place = (runtime_id, workflow.version)
    return (
        names.configuration_bucket(*place),
        names.configuration_bucket(*place, workflow.name),
        names.configuration_bucket(*place, workflow.name, node.name),
    )


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
