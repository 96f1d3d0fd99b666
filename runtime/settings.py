"""Every KRT_* variable, read once into frozen objects; nothing else touches the environment.

One reader per process kind: `read_node`, `read_writer`, `read_manager`, `read_driver`, `read_model_host`,
`read_algorithms`. Each reports every missing or wrong variable at once, as a SettingsError, before anything is
connected.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.environment import CONSUMER_LIMITS, DEFAULT_ENTRYPOINT_TIMEOUT_S, Reader
from runtime.environment import DEFAULT_GRACE_S as DEFAULT_GRACE_S
from runtime.environment import DEFAULT_INBOX_PREFIX as DEFAULT_INBOX_PREFIX
from runtime.environment import DEFAULT_NATS_PORT as DEFAULT_NATS_PORT
from runtime.environment import DEFAULT_REQUEST_TIMEOUT_S as DEFAULT_REQUEST_TIMEOUT_S
from runtime.environment import KRE_LOG_FILE as KRE_LOG_FILE
from runtime.environment import LogSettings as LogSettings
from runtime.environment import NatsSettings as NatsSettings
from runtime.environment import read_credentials_folder as read_credentials_folder

# Variables that KRE's manager sets and this runtime has no use for.
IGNORED = frozenset(
    {"KRT_WORKFLOW_ID", "KRT_NODE_ID", "KRT_MONGO_BUCKET", "KRT_LAST_NODE_NAME", "KRT_NATS_EXITPOINT_SUBJECT"}
)

# Name of a runner of algorithms: a token of a key, and part of the name of a micro-service.
RUNNER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Seconds for one call of an algorithm.
DEFAULT_ALGORITHM_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What one runner needs.

    node_spec: JSON of a `spec.node.NodeSpec`, "" for a bare runner. wire: KRE's wire version, `v1` or `v2`.
    entrypoint: subject of answers on v1. is_last: whether this node is the last of a workflow on v1. max_claim_bytes:
    of one payload in an object store. gpu_share: of each GPU that it was given, 0 without any.
    """

    workflow: str
    version_id: str
    version: str
    node: str
    runtime_id: str
    nats: NatsSettings
    inputs: tuple[str, ...]
    output: str
    stream: str
    writer_subject: str
    base_path: Path
    handler_path: str
    mongo_uri: str = field(repr=False)
    mongo_database: str
    influx_uri: str = field(repr=False)
    influx_token: str = field(repr=False)
    influx_org: str
    influx_bucket: str
    configuration_buckets: Mapping[str, str]
    object_store: str
    max_ack_pending: int | None
    node_spec: str
    replica: int
    gpu_share: float
    log: LogSettings
    wire: str
    entrypoint: str
    is_last: bool
    is_exit: bool
    max_inflated_bytes: int
    max_claim_bytes: int
    grace_s: float
    ready_fd: int | None

    @property
    def handler_file(self) -> Path:
        """The handler module's file."""
        return self.base_path / self.handler_path


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """What a writer needs. stream: of the workflow that it is present for, "" for none."""

    nats: NatsSettings
    stream: str
    subject: str
    mongo_uri: str = field(repr=False)
    mongo_database: str
    max_inflated_bytes: int
    log: LogSettings
    grace_s: float
    ready_fd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """What a manager needs. spec: JSON of a `spec.manager.ManagerSpec`."""

    nats: NatsSettings
    spec: str
    log: LogSettings
    ready_fd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSettings:
    """What a driver needs. spec: JSON of a `spec.driver.DriverSpec`; it may hold secrets.

    base_path: folder of the workflow, from which drivers may be imported. advertise_address: under which others reach
    this host, "" for its name. subjects_file, wire and request_timeout_s: of KRE's entrypoint, which has no spec; wire
    is "" where the file tells.
    """

    nats: NatsSettings
    spec: str = field(repr=False)
    base_path: Path | None
    advertise_address: str
    max_claim_bytes: int
    log: LogSettings
    ready_fd: int | None
    subjects_file: Path | None = None
    wire: str = ""
    request_timeout_s: float = DEFAULT_ENTRYPOINT_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHostSettings:
    """What a model host needs. spec: JSON of a `spec.model_host.ModelHostSpec`. max_claim_bytes: of one body."""

    nats: NatsSettings
    spec: str
    max_claim_bytes: int
    log: LogSettings
    ready_fd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmsSettings:
    """What a runner of algorithms needs.

    adapter: module, file or folder. runner: its name, "" for that of the adapter's folder. timeout_s, concurrency: of
    algorithms without their own. isolation: `thread` or `process`. replace: win against runners with other signatures.
    environment: what algorithms in a process of their own see, which is all but the KRT_* variables.
    """

    nats: NatsSettings
    adapter: str
    runner: str
    concurrency: int
    timeout_s: float
    isolation: str
    replace: bool
    max_claim_bytes: int
    environment: Mapping[str, str] = field(repr=False)
    log: LogSettings
    grace_s: float
    ready_fd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """What a node of kind batch needs beside its spec.

    work: folder of the folders of runs, None for one below the workflow's; host_work: the same as the container engine
    sees it, for a node that is a container itself. registry_user, registry_password: "" for the engine's own login.
    token: of callbacks, "" for none.
    """

    work: Path | None
    host_work: Path | None
    registry_user: str
    registry_password: str = field(repr=False)
    token: str = field(repr=False)


def read_node(environ: Mapping[str, str] = os.environ) -> NodeSettings:
    """Read a runner's variables. Raises SettingsError with every problem."""
    read = Reader(environ)
    settings = NodeSettings(
        workflow=read.text("KRT_WORKFLOW_NAME", "text, e.g. greeter"),
        version_id=read.text("KRT_VERSION_ID", "text, e.g. 63a1f5"),
        version=read.text("KRT_VERSION", "text, e.g. v1"),
        node=read.text("KRT_NODE_NAME", "text, e.g. classify"),
        runtime_id=read.text("KRT_RUNTIME_ID", default=""),
        nats=read.nats(),
        inputs=read.inputs(),
        output=read.text("KRT_NATS_OUTPUT", "subject, e.g. prod_v1_greeter.classify"),
        stream=read.text("KRT_NATS_STREAM", "text, e.g. prod_v1_greeter"),
        writer_subject=read.text("KRT_NATS_MONGO_WRITER", "subject, e.g. mongo_writer"),
        base_path=Path(read.text("KRT_BASE_PATH", "folder, e.g. /krt-files")),
        handler_path=read.handler_path(),
        mongo_uri=read.uri("KRT_MONGO_URI", ("mongodb", "mongodb+srv", "sqlite"), "mongodb://… or sqlite:///path"),
        mongo_database=read.database(),
        influx_uri=read.uri("KRT_INFLUX_URI", ("http", "https", "sqlite"), "http(s)://… or sqlite:///path"),
        influx_token=read.text("KRT_INFLUX_TOKEN", default=""),
        influx_org=read.text("KRT_INFLUX_ORG", default=""),
        influx_bucket=read.text("KRT_INFLUX_BUCKET", default="") or read.text("KRT_RUNTIME_ID", default="kre"),
        configuration_buckets={
            scope: read.text(f"KRT_NATS_KEY_VALUE_STORE_{scope.upper()}", default="")
            for scope in ("project", "workflow", "node")
        },
        object_store=read.text("KRT_NATS_OBJECT_STORE", default=""),
        max_ack_pending=read.max_ack_pending(),
        node_spec=read.text("KRT_NODE_SPEC", default=""),
        replica=read.number("KRT_REPLICA", int, "a whole number, 0 or more", 0, low=0),
        gpu_share=read.number("KRT_GPU_SHARE", float, "a number, 0 to 1", 0.0, low=0.0, high=1.0),
        log=read.log(),
        wire=read.wire(),
        entrypoint=read.text(
            "KRT_NATS_ENTRYPOINT_SUBJECT", default=f"{read.text('KRT_NATS_STREAM', default='')}.entrypoint"
        ),
        is_last=read.boolean("KRT_IS_LAST_NODE"),
        is_exit=read.boolean("KRT_IS_EXITPOINT"),
        max_inflated_bytes=read.max_inflated_bytes(),
        max_claim_bytes=read.max_claim_bytes(),
        grace_s=read.grace(),
        ready_fd=read.ready_fd(),
    )
    return read.checked(settings)


def read_batch(environ: Mapping[str, str] = os.environ, *, token_variable: str = "") -> BatchSettings:
    """Read what nodes of kind batch have on top. token_variable: what the workflow file names. Raises SettingsError."""
    read = Reader(environ)
    work, host_work = read.text("KRT_BATCH_DIR", default=""), read.text("KRT_BATCH_HOST_DIR", default="")
    settings = BatchSettings(
        work=Path(work).absolute() if work else None,
        host_work=Path(host_work) if host_work else None,
        registry_user=read.text("KRT_REGISTRY_USER", default=""),
        registry_password=read.text("KRT_REGISTRY_PASSWORD", default=""),
        token=read.text(token_variable, "the bearer token of callbacks") if token_variable else "",
    )
    return read.checked(settings)


def read_writer(environ: Mapping[str, str] = os.environ) -> WriterSettings:
    """Read a writer's variables. Raises SettingsError with every problem."""
    read = Reader(environ)
    settings = WriterSettings(
        nats=read.nats(),
        stream=read.text("KRT_NATS_STREAM", default=""),
        subject=read.text("KRT_NATS_MONGO_WRITER", "subject, e.g. mongo_writer"),
        mongo_uri=read.uri("KRT_MONGO_URI", ("mongodb", "mongodb+srv", "sqlite"), "mongodb://… or sqlite:///path"),
        mongo_database=read.database(),
        max_inflated_bytes=read.max_inflated_bytes(),
        log=read.log(),
        grace_s=read.grace(),
        ready_fd=read.ready_fd(),
    )
    return read.checked(settings)


def read_manager(environ: Mapping[str, str] = os.environ) -> ManagerSettings:
    """Read a manager's variables. Raises SettingsError with every problem."""
    read = Reader(environ)
    settings = ManagerSettings(
        nats=read.nats(),
        spec=read.text("KRT_MANAGER_SPEC", "JSON, as `krt run` makes it"),
        log=read.log(),
        ready_fd=read.ready_fd(),
    )
    return read.checked(settings)


def read_driver(environ: Mapping[str, str] = os.environ) -> DriverSettings:
    """Read a driver's variables. Raises SettingsError with every problem."""
    read = Reader(environ)
    folder = read.text("KRT_BASE_PATH", default="")
    subjects = read.text("KRT_NATS_SUBJECTS_FILE", default="")
    settings = DriverSettings(
        nats=read.nats(),
        spec=read.text("KRT_DRIVER_SPEC", "JSON, as `krt run` makes it", "" if subjects else None),
        base_path=Path(folder) if folder else None,
        advertise_address=read.text("KRT_ADVERTISE_ADDRESS", default=""),
        max_claim_bytes=read.max_claim_bytes(),
        log=read.log(),
        ready_fd=read.ready_fd(),
        subjects_file=Path(subjects) if subjects else None,
        wire=read.stated_wire(),
        request_timeout_s=read.number(
            "KRT_REQUEST_TIMEOUT", float, "seconds, 0.1 to 86400", DEFAULT_ENTRYPOINT_TIMEOUT_S, low=0.1, high=86_400.0
        ),
    )
    return read.checked(settings)


def read_model_host(environ: Mapping[str, str] = os.environ) -> ModelHostSettings:
    """Read a model host's variables. Raises SettingsError with every problem."""
    read = Reader(environ)
    settings = ModelHostSettings(
        nats=read.nats(),
        spec=read.text("KRT_MODEL_SPEC", "JSON, as `krt model serve` makes it"),
        max_claim_bytes=read.max_claim_bytes(),
        log=read.log(),
        ready_fd=read.ready_fd(),
    )
    return read.checked(settings)


def read_algorithms(environ: Mapping[str, str] = os.environ) -> AlgorithmsSettings:
    """Read the variables of a runner of algorithms. Raises SettingsError with every problem."""
    read = Reader(environ)
    settings = AlgorithmsSettings(
        nats=read.nats(),
        adapter=read.text("KRT_ADAPTER", default="runner_adapter"),
        runner=read.matching("KRT_RUNNER_NAME", RUNNER_NAME, "1 to 64 letters, digits, - and _, e.g. image-runner"),
        concurrency=read.number("KRT_ALGORITHMS_CONCURRENCY", int, "a whole number, 1 or more", 1, low=1),
        timeout_s=read.duration("KRT_ALGORITHMS_TIMEOUT", DEFAULT_ALGORITHM_TIMEOUT_S),
        isolation=read.choice("KRT_ALGORITHMS_ISOLATION", ("thread", "process")),
        replace=read.boolean("KRT_ALGORITHMS_REPLACE"),
        max_claim_bytes=read.max_claim_bytes(),
        environment={name: value for name, value in environ.items() if not name.startswith("KRT_")},
        log=read.log(),
        grace_s=read.grace(),
        ready_fd=read.ready_fd(),
    )
    return read.checked(settings)


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return one sentence for each KRT_* variable without an effect, with the nearest known name for an unknown one."""
    found = []
    for name in sorted(environ):
        if name.startswith("KRT_") and name not in KNOWN and name not in IGNORED and not name.startswith("KRT_TEST_"):
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else "it has no effect"
            found.append(f"unknown variable {name}; {hint}")
        elif name in CONSUMER_LIMITS and environ.get("KRT_NODE_SPEC"):
            found.append(f"{name} has no effect on a planned node, whose consumer is the manager's")
    return found


def redact(text: str) -> str:
    """Replace the user part of every URL in `text` by `***`; a password may hold an `@`."""
    return re.sub(r"(\w[\w+.-]*://)[^/\s,]+@", r"\1***@", text)


# Every variable that some process kind reads; `unknown_variables` warns of others.
KNOWN = frozenset(
    f"KRT_{name}"
    for name in """
    WORKFLOW_NAME VERSION_ID VERSION NODE_NAME NATS_SERVER NATS_INPUT NATS_INPUTS NATS_OUTPUT NATS_STREAM
    NATS_MONGO_WRITER BASE_PATH HANDLER_PATH MONGO_URI INFLUX_URI RUNTIME_ID NATS_ENTRYPOINT_SUBJECT IS_LAST_NODE
    IS_EXITPOINT NATS_KEY_VALUE_STORE_PROJECT NATS_KEY_VALUE_STORE_WORKFLOW NATS_KEY_VALUE_STORE_NODE NATS_OBJECT_STORE
    NATS_MAX_ACK_PENDING MAX_PENDING_ACK JS_REQUEST_TIMEOUT MONGO_DB_NAME NODE_SPEC WIRE REPLICA LOG_FORMAT LOG_LEVEL
    LOG_FILE INFLUX_TOKEN INFLUX_ORG INFLUX_BUCKET MAX_INFLATED_BYTES SHUTDOWN_GRACE READY_FD MANAGER_SPEC
    NATS_SERVER_BIN NATS_CREDENTIALS NATS_INBOX_PREFIX DRIVER_SPEC ADVERTISE_ADDRESS
    ADAPTER RUNNER_NAME ALGORITHMS_CONCURRENCY ALGORITHMS_TIMEOUT ALGORITHMS_ISOLATION ALGORITHMS_REPLACE
    NATS_SUBJECTS_FILE REQUEST_TIMEOUT MAX_CLAIM_BYTES MODEL_SPEC BATCH_DIR BATCH_HOST_DIR REGISTRY_USER
    REGISTRY_PASSWORD GPUS GPU_SHARING GPU_SHARE
    """.split()
)
