"""Every name that another process sees on NATS, made here and nowhere else. Pure: text in, text out.

| name | form | kept |
|---|---|---|
| stream | `<runtime>_<version>_<workflow>` | by `stream.keep` and `stream.max_bytes`; the manager purges |
| subject | `<stream>.entrypoint`, `<stream>.<node>[.<channel>]` | with its stream |
| partition of an output | subject `<stream>.<node>.<channel or main>.p<number>` | with its stream |
| durable | `<node>[_p<partition>]__<source>[_<channel>][__<source>…]` | until the node is removed |
| dead letters | stream `<stream>_dlq`, subject `<stream>_dlq.<node>` | longest `dead_letter.keep` of the workflow |
| redriven input | subject `<stream>._redrive.<node>.<rest of its first subject>` | with its stream |
| configuration | KV `key-store_<runtime>_<version>[_<workflow>[_<node>]]` | until changed |
| state | KV `state_<stream>_<node>`, key: SHA-256 of the state id | `state.ttl` after an id's last message |
| joined parts | KV `join_<stream>_<node>`, key: SHA-256 of what the parts share | 2 h beyond `join.timeout` |
| failed attempts | KV `attempts_<stream>`, key `<node>/<sequence>` | until the message is done |
| applied configuration | KV `applied_<stream>`, key `<bucket>/<key>` | until changed |
| tasks | KV `tasks_<stream>`, key: id of the task | `task_ttl` after its end, enforced on read |
| batch runs | KV `runs_<stream>`, key: run id | `artifacts.keep` after its end, enforced on read |
| batch run | subject `run.<stream>.<run id>.<action>`: events, log lines, requests | core NATS, nothing kept |
| positions of sources | KV `positions_<stream>`, key `<driver>/<source>` | until removed |
| durable of a sink that reads every output | `<driver>_<sink>_sink` | until removed |
| objects | object store `<stream>_<name>`, or `<runtime>_<version>_<name>` | by `objects.<name>.keep` |
| presence | KV `presence`, key `<kind>.<stream>[.<name>].<instance>` | until 6 s after its last beat |
| answers | subject `_INBOX.<stream>.<process>.…`, a prefix for each process of the plan | core NATS, nothing kept |
| driver | subject `driver.<stream>.<pid>.<action>`: requests about itself | core NATS, nothing kept |
| driver host | subject `drivers.<stream>.<action>`, for `add` queue group `krt-drivers` | core NATS, nothing kept |
| cancelled requests | subject `cancel.<stream>`, the id as the message | core NATS; nodes remember it for 10 min |
| model host | subject `model.<cluster>.<model id>.<deployment>.<action>` | core NATS, nothing kept |
| bodies of model calls | object store `models_<cluster>` | 5 min |
| quarantined models | KV `quarantine_<cluster>`, key `<model id>.<digest>` | until released |
| fleet: a `krt model serve FILE` | subject `fleet.<cluster>.<instance>.<action>` | core NATS, nothing kept |
| algorithm | subject `algorithm.<name>.<action>`, queue group `algorithm.<name>` | core NATS, nothing kept |
| algorithms that were ever served | KV `algorithms`, key: name | until removed |
| bodies of calls of algorithms | object store `algorithms` | 5 min |
| writer | subject `mongo_writer[_<stream>]`, queue group `krt-writer` | core NATS, nothing kept |

Names of workflows, versions, nodes and channels hold no underscore and no dot, so every form can be read back.
"""

import hashlib
import re
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

# A name in a workflow file. 40 characters, so that a stream of three names stays far below the server's limit of 255.
NAME_PATTERN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
MAX_NAME_LENGTH = 40

# An id of a model: given by others, so it may hold what names may not.
MODEL_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")

# The virtual source of every workflow, and the channel that outputs without a channel belong to.
ENTRYPOINT = "entrypoint"
MAIN_CHANNEL = "main"
# Second token of the subjects on which one node alone gets a message again; the underscore keeps it apart from nodes.
REDRIVE = "_redrive"
# Mark in the id of a redriven input, which no output has.
REDRIVE_MARK = "in"

# Metadata of a stream: how its entrypoint is partitioned, as the JSON of a `spec.node.Partitions`.
ENTRYPOINT_METADATA = "krt-entrypoint"

# Header of JetStream's deduplication: the one header on the message path.
MESSAGE_ID_HEADER = "Nats-Msg-Id"
# Headers of a redriven message: the stream sequence of its first input (and its path, see `hops.py`), how often it was
# redriven, and the attempts that failed before, as JSON. What is handed on inside of a process has the first two.
ORIGIN_HEADER = "Krt-Origin"
REDRIVE_HEADER = "Krt-Redrive"
ATTEMPTS_HEADER = "Krt-Attempts"
# Header of what fused nodes have made: those that it has passed in their process, see `hops.py`.
HOPS_HEADER = "Krt-Hops"
# Header that carries a document's deterministic `_id` to the writer, whose body stays as KRE's writer reads it.
DOCUMENT_ID_HEADER = "Krt-Doc-Id"

# The handler that the runtime ships, in place of a path, and the variable with the node whose messages it passes on.
PASS_HANDLER = "krt:passthrough"
PASS_FROM = "PASSTHROUGH_FROM"

# KV bucket of the service records of every live process that uses the server.
PRESENCE_BUCKET = "presence"
# Header of a piece of a run's output: which of its streams it is, `stdout` or `stderr`.
OUTPUT_STREAM_HEADER = "Krt-Output"
# Metadata of a node's service record: the JSON Schemas of what it takes from, and gives to, callers of the workflow.
SCHEMAS = "schemas"
# Likewise: the GPUs that its process was given, with their use, and the share of each that is its own.
GPUS, GPU_SHARE = "gpus", "gpu_share"
# Likewise: the first node of the chain in whose process it runs, "" where that is its own.
FUSED_WITH = "fused_with"
# Kinds of processes, as their service records name them.
NODE, MANAGER, WRITER, DRIVER, MODEL, FLEET = "node", "manager", "writer", "driver", "model", "fleet"

# Kind of the processes that run algorithms.
ALGORITHM = "algorithm"
# Kind of the workers inside of nodes of kind batch, which tell whose runs are alive.
BATCH = "batch"

# Processes beside those of a plan: whoever sends requests to a workflow, looks after it, or starts drivers on request.
CLIENT, OPERATOR, DRIVER_HOST = "krt.client", "krt.operator", "krt.drivers"

# Name of the object store that is kept for payloads larger than a message.
CLAIMS_STORE = "claims"

# KV bucket of the algorithms that were ever served, and object store of bodies of their calls.
ALGORITHMS_BUCKET = "algorithms"
ALGORITHMS_STORE = "algorithms"

WRITER_SUBJECT = "mongo_writer"
WRITER_QUEUE = "krt-writer"
# What driver hosts share, so that one of them adds a driver.
DRIVER_HOST_QUEUE = "krt-drivers"


def is_name(text: str) -> bool:
    """Say whether `text` can name a workflow, version, node or channel."""
    return len(text) <= MAX_NAME_LENGTH and NAME_PATTERN.fullmatch(text) is not None


def suggest_name(text: str) -> str:
    """Return the nearest valid name to `text`, or "" when nothing of it is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:MAX_NAME_LENGTH].strip("-")


def stream(runtime: str, version: str, workflow: str) -> str:
    """Return the stream of one deployed workflow."""
    return f"{runtime}_{version}_{workflow}"


def sibling_stream(stream: str, workflow: str) -> str:
    """Return the stream of another workflow of the same runtime and version."""
    return f"{stream.rpartition('_')[0]}_{workflow}"


def entrypoint_subject(stream: str) -> str:
    """Return the subject that drivers and clients publish to."""
    return f"{stream}.{ENTRYPOINT}"


def cancel_subject(stream: str) -> str:
    """Return the subject on which nodes are told the ids of requests that their callers have cancelled."""
    return f"cancel.{stream}"


def node_subject(stream: str, node: str, channel: str = "") -> str:
    """Return the subject of a node's output; no channel, or `main`, is the node's own subject."""
    own = f"{stream}.{node}"
    return own if channel in ("", MAIN_CHANNEL) else f"{own}.{channel}"


def redrive_subject(node: str, subject: str) -> str:
    """Return the subject on which `node` alone gets a message of `subject` again; its other readers do not see it."""
    stream, _, rest = subject.partition(".")
    return f"{stream}.{REDRIVE}.{node}.{rest}"


def redriven_node(subject: str) -> str:
    """Return the node for which a message is redriven on this subject, "" for any other subject."""
    tokens = subject.split(".", 3)
    return tokens[2] if tokens[1:2] == [REDRIVE] and len(tokens) > 3 else ""


def source_subject(subject: str) -> str:
    """Return the subject that a message had before it was redriven; any other subject comes back as it is."""
    tokens = subject.split(".", 3)
    return f"{tokens[0]}.{tokens[3]}" if tokens[1:2] == [REDRIVE] else subject


def stream_subjects(stream: str) -> list[str]:
    """Return what the stream listens to: everything below its own name."""
    return [f"{stream}.>"]


def durable(node: str, sources: list[str]) -> str:
    """Return the durable consumer of a node: unique per (node, source set), whatever the order of the sources.

    A source is `entrypoint`, `node` or `node.channel`. A subject's dot becomes one underscore, which no name holds.
    """
    return "__".join([node, *sorted(source.replace(".", "_") for source in sources)])


def node_of(durable: str) -> str:
    """Return the node that a durable belongs to, "" for a name that `durable` did not make."""
    node, separator, _ = unpartitioned_durable(durable).partition("__")
    return node if separator and is_name(node) else ""


# The end of a partition's subject; `main` stands there only because a partition follows.
_PARTITION = re.compile(rf"(\.{MAIN_CHANNEL})?\.p[0-9]+$")


def partition(key: str, count: int) -> int:
    """Return the partition of a key, from 0: CRC-32 (IEEE) of its UTF-8 bytes, modulo `count`; that of "" is 0."""
    return zlib.crc32(key.encode()) % count


def partition_subject(subject: str, number: int | Literal["*"]) -> str:
    """Return the subject of one partition of an output, or with `*` the pattern of all its partitions."""
    channel = subject if source_subject(subject).count(".") > 1 else f"{subject}.{MAIN_CHANNEL}"
    return f"{channel}.*" if number == "*" else f"{channel}.p{number}"


def unpartitioned_subject(subject: str) -> str:
    """Return the output's own subject for that of one of its partitions; any other comes back as it is."""
    return _PARTITION.sub("", subject)


def partition_inputs(subjects: Sequence[str], number: int) -> tuple[str, ...]:
    """Return what the consumer of one partition reads, of the outputs `subjects`.

    The first partition also reads what was published without one, by a sender that does not know of partitions: its
    messages have no state id, for which that is the right place, or at least they are not lost.
    """
    partitions = tuple(partition_subject(subject, number) for subject in subjects)
    return (*subjects, *partitions) if number == 0 else partitions


def partition_durable(durable: str, number: int) -> str:
    """Return the consumer of one partition of an ordered node, whose own name is `durable`."""
    node, _, sources = durable.partition("__")
    return f"{node}_p{number}__{sources}"


def unpartitioned_durable(durable: str) -> str:
    """Return the consumer's name without its partition; any other comes back as it is."""
    return re.sub(r"^([^_]+)_p[0-9]+__", r"\1__", durable)


def dead_letter_stream(stream: str) -> str:
    """Return the stream that keeps a workflow's dead letters."""
    return f"{stream}_dlq"


def dead_letter_subject(stream: str, node: str) -> str:
    """Return the subject of one node's dead letters."""
    return f"{stream}_dlq.{node}"


def attempts_bucket(stream: str) -> str:
    """Return the KV bucket of failed attempts, by `<node>/<sequence>`: kept until the message is done."""
    return f"attempts_{stream}"


def state_bucket(stream: str, node: str) -> str:
    """Return the KV bucket of a node's states, by `state_key`: its own, for each says how long its states live."""
    return f"state_{stream}_{node}"


def tasks_bucket(stream: str) -> str:
    """Return the KV bucket of a workflow's tasks, by their ids; its drivers share it."""
    return f"tasks_{stream}"


def runs_bucket(stream: str) -> str:
    """Return the KV bucket of a workflow's batch runs, by their ids."""
    return f"runs_{stream}"


def run_subject(stream: str, run_id: str, action: str) -> str:
    """Return the subject of one batch run: it tells `event` and `log`, and is asked for `cancel` and `start`."""
    return f"run.{stream}.{run_id}.{action}"


def positions_bucket(stream: str) -> str:
    """Return the KV bucket that keeps how far the sources of drivers are, by `position_key`."""
    return f"positions_{stream}"


def position_key(driver: str, source: str) -> str:
    """Return the key under which the position of one source is kept."""
    return f"{driver}/{source}"


def sink_durable(driver: str, sink: str) -> str:
    """Return the consumer of a sink that reads every output; it has no double underscore, so it is no node's."""
    return f"{driver}_{sink}_sink"


def node_of_state_bucket(stream: str, bucket: str) -> str:
    """Return the node whose states a bucket holds, "" for any other bucket."""
    node = bucket.removeprefix(state_bucket(stream, ""))
    return node if is_name(node) and bucket == state_bucket(stream, node) else ""


def join_bucket(stream: str, node: str) -> str:
    """Return the KV bucket of the sets that a join waits for, or has handled, by `state_key` of what they share."""
    return f"join_{stream}_{node}"


def state_key(state_id: str) -> str:
    """Return the key of a state; ids are any text, keys are not."""
    return hashlib.sha256(state_id.encode()).hexdigest()


def configuration_bucket(runtime: str, version: str, workflow: str = "", node: str = "") -> str:
    """Return the KV bucket of a configuration scope: project, workflow (workflow given) or node (both given)."""
    return "_".join(part for part in ("key-store", runtime, version, workflow, node) if part)


def node_configuration_prefix(stream: str) -> str:
    """Return what the configuration buckets of a workflow's nodes begin with, and no other bucket does."""
    return f"key-store_{stream}_"


def applied_bucket(stream: str) -> str:
    """Return the KV bucket of the configuration values that the manager wrote last, by `<bucket>/<key>`."""
    return f"applied_{stream}"


def presence_key(kind: str, *place: str) -> str:
    """Return the key of a service record; its place ends with the instance: `presence_key(NODE, stream, node, "a1")`.

    A process of a workflow has the stream first, see `presence_keys`.
    """
    return ".".join((kind, *place))


def driver_subject(stream: str, pid: str, action: str) -> str:
    """Return the subject on which a driver answers requests about itself; `>` for the action is all of them."""
    return f"{DRIVER}.{stream}.{pid}.{action}"


def driver_host_subject(stream: str, action: str) -> str:
    """Return the subject on which those who start drivers for a workflow are asked to."""
    return f"drivers.{stream}.{action}"


def is_model_id(text: str) -> bool:
    """Say whether `text` can be the id of a model, or of one deployment of it."""
    return MODEL_ID_PATTERN.fullmatch(text) is not None


def model_subject(cluster: str, model_id: str, deployment: str, action: str) -> str:
    """Return the subject on which a model host answers coordinators; `>` for the action is all of them."""
    return f"{MODEL}.{cluster}.{model_id}.{deployment}.{action}"


def model_presence_keys(cluster: str) -> str:
    """Return the keys of every model host of a cluster, as a watch takes them; one is `<its kind>.…` of its subject."""
    return f"{MODEL}.{cluster}.*.*"


def model_store(cluster: str) -> str:
    """Return the object store of a cluster's large bodies."""
    return f"models_{cluster}"


def quarantine_bucket(cluster: str) -> str:
    """Return the KV bucket of the models of a cluster that are not to be started, by `quarantine_key`."""
    return f"quarantine_{cluster}"


def quarantine_key(model_id: str, digest: str) -> str:
    """Return the key of one model with one code, resources and hardware; `*` for the digest is all of its models."""
    return f"{model_id}.{digest}"


def fleet_subject(cluster: str, instance: str, action: str) -> str:
    """Return the subject on which a `krt model serve FILE` is asked; `>` for the action is all of them."""
    return f"{FLEET}.{cluster}.{instance}.{action}"


def is_algorithm_name(text: str) -> bool:
    """Say whether `text` can name an algorithm: an ASCII identifier."""
    return text.isascii() and text.isidentifier()


def algorithm_subject(name: str, action: str) -> str:
    """Return the subject on which runners answer calls of an algorithm, or questions about it."""
    return f"{ALGORITHM}.{name}.{action}"


def algorithm_queue(name: str) -> str:
    """Return the queue group that all runners of an algorithm share."""
    return f"{ALGORITHM}.{name}"


def algorithm_presence_keys() -> str:
    """Return the keys of every runner of algorithms, as a watch takes them: `algorithm.<runner>.<instance>`."""
    return f"{ALGORITHM}.*.*"


def presence_keys(stream: str) -> str:
    """Return the keys of every process of one deployed workflow, as a watch takes them."""
    return f"*.{stream}.>"


def object_store(runtime: str, version: str, workflow: str, store: str) -> str:
    """Return an object store of a workflow; with "" for the workflow, one that those of a version share."""
    return "_".join(part for part in (runtime, version, workflow, store) if part)


def writer_subject(stream: str) -> str:
    """Return the subject of a writer that serves one workflow, for a server that several local runs share."""
    return f"{WRITER_SUBJECT}_{stream}"


def inbox_prefix(stream: str, process: str) -> str:
    """Return what the subjects begin with on which a process of the workflow gets answers: no other may read them.

    process: a name of the plan. Its dot, which only the runtime's own processes have, becomes an underscore.
    """
    return f"_INBOX.{stream}.{process.replace('.', '_')}"


def message_id(node: str, origin: int, number: int, *, mark: str = "", redrive: int = 0, path: str = "") -> str:
    """Return the `Nats-Msg-Id` of an output: the same for every delivery of the same input.

    origin: stream sequence of the (first) input. path: see `hops.path_behind`. number: position among the delivery's
    outputs, from 0. mark: `e` for an ERROR, `r` for an early reply, `x` for an early exit.
    """
    base = f"{node}.{origin}{path}.{mark}{number}"
    return f"{base}#r{redrive}" if redrive else base


def dead_letter_id(node: str, origin: int, redrive: int = 0, path: str = "") -> str:
    """Return the `Nats-Msg-Id` of a dead letter, so that giving one message up twice stores it once."""
    return message_id(node, origin, 0, mark="dlq", redrive=redrive, path=path)


def redrive_id(node: str, origin: int, redrive: int, path: str = "") -> str:
    """Return the `Nats-Msg-Id` of a redriven message: redriving one dead letter twice stores it once."""
    return message_id(node, origin, 0, mark=REDRIVE_MARK, redrive=redrive, path=path)


class MessageId(NamedTuple):
    """What an id made by `message_id` says; see there."""

    node: str
    origin: int
    mark: str
    redrive: int
    path: str = ""


_MESSAGE_ID = re.compile(
    r"(?P<node>[^.]+)\.(?P<origin>\d+)(?P<path>(?:-[a-z]*\d+(?:r\d+)?)*)\.(?P<mark>[a-z]*)\d+(?:#r(?P<redrive>\d+))?"
)


def read_message_id(text: str) -> MessageId | None:
    """Return the parts of an id that a node has made, None for one of somebody else's."""
    match = _MESSAGE_ID.fullmatch(text)
    if match is None:
        return None
    return MessageId(match["node"], int(match["origin"]), match["mark"], int(match["redrive"] or 0), match["path"])
