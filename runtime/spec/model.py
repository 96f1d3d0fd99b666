"""The workflow as the rest of the runtime sees it: resolved, checked and frozen.

`spec/load.py` makes these from a workflow file. Durations are seconds, sizes are bytes, every default is filled in and
every source is written out, so that nobody behind the loader knows the rules of the file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from runtime import errors
from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.batching import BatchingSpec
from runtime.spec.node import DEFAULT_TIMEOUT_S, DispatchSpec, Frozen, ModelsSpec, Partitions, RetryPolicy
from runtime.spec.replicas import Scaling
from runtime.spec.resources import ProcessResources
from runtime.spec.selection import Conditions
from runtime.spec.sink import SinkSpec

# Seconds after which the server delivers again what nobody has acknowledged; long deliveries are kept alive before.
ACK_WAIT_S = 30.0
# Bounds of the dedup window in seconds: below, a restart may publish twice; above, the server's memory suffers.
MIN_DEDUP_WINDOW_S = 120.0
MAX_DEDUP_WINDOW_S = 1800.0
# Seconds that handled messages stay readable, and that dead letters are kept, when the file does not say.
DEFAULT_KEEP_S = 24 * 3600.0
DEFAULT_DEAD_LETTER_KEEP_S = 14 * 24 * 3600.0
# Partitions of an ordered node, and seconds that a state is kept after its last message, when the file does not say.
DEFAULT_PARTITIONS = 16
DEFAULT_STATE_TTL_S = 30 * 24 * 3600.0
# Seconds that a join waits for the parts of a set when the file does not say.
DEFAULT_JOIN_TIMEOUT_S = 30.0
# Bytes of a workflow's stream, and of an object store, when the file does not say.
DEFAULT_MAX_BYTES = 1024**3


class Source(Frozen):
    """What a node reads: `entrypoint`, a node's output, or one channel of it (`channel` "" is the plain output)."""

    node: str
    channel: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source written as `node` or `node.channel`."""
        node, _, channel = text.partition(".")
        return cls(node=node, channel=channel)

    def __str__(self) -> str:
        return f"{self.node}.{self.channel}" if self.channel else self.node


class Stream(Frozen):
    """The one stream of a workflow. A full stream refuses new messages, it never discards old ones."""

    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    storage: Literal["file", "memory"] = "file"
    keep_s: Annotated[float, Field(ge=0)] = DEFAULT_KEEP_S
    max_bytes: Annotated[int, Field(ge=1)] = DEFAULT_MAX_BYTES


class Order(Frozen):
    """Messages of one state id are handled in order, one at a time; as many at once as there are partitions."""

    partitions: Annotated[int, Field(ge=1)] = DEFAULT_PARTITIONS


class State(Frozen):
    """Ordered, and with a `ctx.state` for each state id.

    type: its class as `module:Class`; "" is the handler's `State`, else a dict. ttl_s: None keeps it for ever.
    """

    type: str = ""
    partitions: Annotated[int, Field(ge=1)] = DEFAULT_PARTITIONS
    ttl_s: Annotated[float, Field(gt=0)] | None = DEFAULT_STATE_TTL_S


class ObjectStore(Frozen):
    """A store of objects, of one workflow or of all those of a version. keep_s: None keeps an object for ever."""

    scope: Literal["workflow", "project"] = "workflow"
    description: str = ""
    keep_s: Annotated[float, Field(gt=0)] | None = None
    max_bytes: Annotated[int, Field(ge=1)] = DEFAULT_MAX_BYTES


class Join(Frozen):
    """A node that waits for all parts of a set. parts: their names, in the order of the node's sources.

    key: `request_id`, `state_id` or `header.<name>`. timeout_s: from the first part on.
    """

    parts: Annotated[tuple[str, ...], Field(min_length=2)]
    key: str = "request_id"
    timeout_s: Annotated[float, Field(gt=0)] = DEFAULT_JOIN_TIMEOUT_S
    on_timeout: Literal["dead_letter", "partial"] = "dead_letter"


class Node(Frozen):
    """One step of a workflow.

    handler: path of the module, relative to the workflow's folder, with "/"; "" on a node of another kind.
    scaling: how Kubernetes scales it, from `replicas` on; None leaves it at those.
    image: of its container, "" for that of the deployment.
    concurrency: messages handled at once by a replica; None leaves it to the handler (`async def` 16, else 1).
    workers: processes of each replica that have the handler, which then may be killed; None has it in a thread.
    batching: its handler gets lists of messages, and `concurrency` counts calls (None: 1).
    timeout_s: limit of one delivery; None is no limit.
    dead_letter_keep_s: how long a given-up message is kept; None counts and logs it without storing it.
    object_store: name of the one that is `ctx.object_store`, "" for none.
    secrets: names of variables to pass on to the process, never values. secret_places: where a cluster keeps those of
    some, `secret/key`.
    atomic: all outputs of one delivery are stored together, or none.
    when: for sources of which it reads a part, what those messages have to fit.
    """

    name: str
    kind: Literal["handler", "models", "dispatch", "batch", "sink"] = "handler"
    description: str = ""
    handler: str = ""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    when: dict[str, Conditions] = Field(default_factory=dict)
    replicas: Annotated[int, Field(ge=1)] = 1
    scaling: Scaling | None = None
    image: str = ""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    batching: BatchingSpec | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = DEFAULT_TIMEOUT_S
    retry: RetryPolicy = RetryPolicy()
    dead_letter_keep_s: Annotated[float, Field(gt=0)] | None = DEFAULT_DEAD_LETTER_KEEP_S
    object_store: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    config: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_places: dict[str, str] = Field(default_factory=dict)
    resources: ProcessResources = ProcessResources()
    order: Order | None = None
    state: State | None = None
    join: Join | None = None
    atomic: bool = False
    models: ModelsSpec | None = None
    dispatch: DispatchSpec | None = None
    batch: BatchSpec | None = None
    sink: SinkSpec | None = None

    @property
    def code_files(self) -> list[str]:
        """The paths of the files that hold the user's code, relative to the workflow's folder, with "/"."""
        if self.models is not None:
            return self.models.files
        if self.batch is not None:
            return self.batch.files
        return [self.handler] if self.handler else []

    @property
    def partitions(self) -> int | None:
        """The partitions of an ordered node's inputs, None for a node that takes messages as they come."""
        ordering = self.state or self.order
        return ordering.partitions if ordering else None

    @property
    def redelivery_span_s(self) -> float:
        """Seconds from the first delivery of a message to the end of its last at most; infinite without a timeout."""
        if self.timeout_s is None:
            return float("inf")
        # A message whose call fails is called again in a half of its batch, then alone.
        calls = 1 if self.batching is None else 3
        in_hand = self.retry.attempts * (calls * self.timeout_s + ACK_WAIT_S)
        # Beyond the window nobody asks how far: this spares adding up the delays of a million attempts.
        return in_hand if in_hand > MAX_DEDUP_WINDOW_S else in_hand + _delays_s(self.retry)


class Driver(Frozen):
    """A process that joins the workflow to the outside.

    type: `http`, `grpc`, `source-sink`, or `module:Class`. ports: numbers by the names of the class, 0 for a free one.
    arguments: of the class, by name. parameters, timeout_s: see `DriverSpec`. secrets, secret_places, image: see
    `Node`.
    """

    name: str
    type: str
    description: str = ""
    ports: dict[str, Annotated[int, Field(ge=0, le=65535)]] = Field(default_factory=dict)
    arguments: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    replicas: Annotated[int, Field(ge=1)] = 1
    image: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_places: dict[str, str] = Field(default_factory=dict)
    resources: ProcessResources = ProcessResources()


class AlgorithmRunner(Frozen):
    """A process that serves the algorithms of an adapter, deployed with the workflow.

    adapter: file or folder, relative to the workflow's folder, with "/". concurrency: calls of each algorithm that a
    replica runs at once. timeout_s: longest run of a call. secrets, secret_places, image: see `Node`.
    """

    name: str
    adapter: str
    concurrency: Annotated[int, Field(ge=1)] = 1
    replicas: Annotated[int, Field(ge=1)] = 1
    isolation: Literal["thread", "process"] = "thread"
    timeout_s: Annotated[float, Field(gt=0)] = DEFAULT_TIMEOUT_S
    image: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_places: dict[str, str] = Field(default_factory=dict)
    resources: ProcessResources = ProcessResources()


class Workflow(Frozen):
    """A named, versioned graph of nodes. `path` is its file, `folder` what the handlers' paths are relative to.

    fuse: names of nodes that run in one process, chain by chain, each reading the one before it alone.
    """

    name: str
    version: str = "dev"
    description: str = ""
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    output: Source
    fuse: tuple[tuple[str, ...], ...] = ()
    drivers: tuple[Driver, ...] = ()
    algorithms: tuple[AlgorithmRunner, ...] = ()
    stream: Stream = Stream()
    config: dict[str, str] = Field(default_factory=dict)
    objects: dict[str, ObjectStore] = Field(default_factory=dict)
    folder: Path
    path: Path

    def node(self, name: str) -> Node:
        """Return the node of this name. Raises ConfigError, with the known names, where there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise errors.ConfigError(f'workflow "{self.name}" has no node "{name}"; it has {known}')

    @property
    def chains(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes by the process that they run in, in the order of the file: a fused chain, or one node alone."""
        behind = {name for chain in self.fuse for name in chain[1:]}
        return tuple(self.chain_of(node) for node in self.nodes if node.name not in behind)

    def chain_of(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes that run in the process of this one, in the order of their messages; itself among them."""
        names_in = next((chain for chain in self.fuse if node.name in chain), (node.name,))
        return tuple(self.node(name) for name in names_in)

    def unfused(self) -> "Workflow":
        """Return the same workflow with a process for every node."""
        return self.model_copy(update={"fuse": ()})

    @property
    def secrets(self) -> list[str]:
        """Names of the variables that its processes need, each once."""
        parts: list[Node | Driver | AlgorithmRunner] = [*self.nodes, *self.drivers, *self.algorithms]
        return sorted({name for part in parts for name in part.secrets})

    def readers_of(self, source: Source) -> list[Node]:
        """Return the nodes that read this output, in the order of the file."""
        return [node for node in self.nodes if source in node.sources]

    def partitions_of(self, output: Source) -> Partitions | None:
        """Return how an output is published for its ordered readers, which agree on it; None if it has none."""
        ordered = [node for node in self.readers_of(output) if node.partitions]
        if not ordered or ordered[0].partitions is None:
            return None
        return Partitions(count=ordered[0].partitions, spread=all(node.state is None for node in ordered))

    @property
    def dedup_window_s(self) -> float:
        """Seconds in which the stream recognises a repeated publish: the longest that a message may be retried."""
        # What a fused node has published may be published again when the whole chain is delivered again.
        longest = max(sum(node.redelivery_span_s for node in chain) for chain in self.chains)
        return min(max(longest, MIN_DEDUP_WINDOW_S), MAX_DEDUP_WINDOW_S)

    def __str__(self) -> str:
        processes = ("+".join(node.name for node in chain) for chain in self.chains)
        return f"{self.name} {self.version} ({', '.join(processes)} → {self.output})"


def entrypoint() -> Source:
    """Return the virtual source that drivers and clients feed."""
    return Source(node=names.ENTRYPOINT)


def _delays_s(retry: RetryPolicy) -> float:
    """Return the seconds that a message waits between its attempts at most, jitter included."""
    total, delay = 0.0, min(retry.first_s, retry.max_s)
    for _ in range(1, retry.attempts):
        total += delay
        delay = min(delay * retry.factor, retry.max_s)
    return total * (1 + retry.jitter)
