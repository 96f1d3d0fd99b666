"""What one runner is told about its node: the JSON of `KRT_NODE_SPEC`, made by `deploy/node_spec.py`, read by `node/`.

Everything here is resolved: durations are seconds, sources are subjects and the durable is named, so that a runner
needs neither the workflow file nor a rule of naming. Functions of the user's are written `file.py:function`, the file's
path being relative to the workflow's folder.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.batching import BatchingSpec
from runtime.spec.claims import ClaimsSpec
from runtime.spec.frozen import Frozen as Frozen
from runtime.spec.join import JoinSpec as JoinSpec
from runtime.spec.selection import Conditions
from runtime.spec.sink import SinkSpec

# Seconds that one delivery may take on a node that says nothing about `timeout`.
DEFAULT_TIMEOUT_S = 60.0
# Messages that an `async def` handler works on at once when the file does not say; a plain `def` gets one.
DEFAULT_ASYNC_CONCURRENCY = 16
# Seconds that a node waits for a runner of an algorithm that nobody serves, when the file does not say.
DEFAULT_WAIT_FOR_RUNNER_S = 30.0
# Seconds that one call of all models may take, when the file does not say.
DEFAULT_CALL_TIMEOUT_S = 10.0
# Failures, and timeouts, in a row after which a model is reported, when the file does not say.
DEFAULT_LIMIT = 3
# Arguments of the functions that a node of kind `models` may have.
ARGUMENTS, AGGREGATE = "(model, data)", "(results, data)"


class RetryPolicy(Frozen):
    """When a handler that raised is called again: `attempts` in all, delays from `first_s` growing by `factor`."""

    attempts: Annotated[int, Field(ge=1)] = 5
    first_s: Annotated[float, Field(ge=0)] = 1.0
    factor: Annotated[float, Field(ge=1)] = 2.0
    max_s: Annotated[float, Field(ge=0)] = 60.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.2
    never: tuple[str, ...] = ()


class Partitions(Frozen):
    """An output that is published in partitions, because a node reads it in order.

    spread: messages without a state id go by their request id. False where a reader keeps a state, which all messages
    without an id share.
    """

    count: Annotated[int, Field(ge=1)]
    spread: bool = False

    def subject(self, output: str, state_id: str, request_id: str) -> str:
        """Return the subject of a message on the output whose own subject is `output`."""
        key = state_id or (request_id if self.spread else "")
        return names.partition_subject(output, names.partition(key, self.count))


class StateSpec(Frozen):
    """Where a node's states are, and of which class: `module:Class`, "" for the handler's `State`, else a dict."""

    bucket: str
    type: str = ""


class CallValue(Frozen):
    """One argument of a model: what lies at a path of the payload, else a constant.

    path: `payload`, or keys and positions behind it: `payload.prices.0`; "" for the constant `value`.
    """

    path: str = ""
    value: Any = None


class ModelCall(Frozen):
    """One method that all models are called with. args, kwargs: None leaves them to the node's `arguments`."""

    method: str
    args: tuple[CallValue, ...] | None = None
    kwargs: dict[str, CallValue] | None = None


class Instance(Frozen):
    """What the models' class is constructed with: plain values."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = Field(default_factory=dict)


class Limits(Frozen):
    """How often in a row a model may fail, or be late, before it is reported and stopped; 0 is for ever."""

    failures: Annotated[int, Field(ge=0)] = DEFAULT_LIMIT
    timeouts: Annotated[int, Field(ge=0)] = DEFAULT_LIMIT


class ModelsSpec(Frozen):
    """Kind `models`: calls every model of a cluster, method by method, and sends what they answered.

    base_class: `module.Class`. arguments: function that makes the arguments of each model. aggregate: function that
    makes the output of the answers. require: fewer successes fail the delivery. emit: of which calls the output tells.
    predictions: whether each model's answers are saved as predictions.
    """

    cluster: str
    base_class: str
    instance: Instance = Instance()
    calls: Annotated[tuple[ModelCall, ...], Field(min_length=1)]
    arguments: str = ""
    aggregate: str = ""
    call_timeout_s: Annotated[float, Field(gt=0)] = DEFAULT_CALL_TIMEOUT_S
    limits: Limits = Limits()
    require: Annotated[int, Field(ge=0)] = 0
    emit: Literal["last", "all"] = "last"
    predictions: bool = False

    @property
    def files(self) -> list[str]:
        """Paths of the files with the user's functions, each once."""
        functions = (self.arguments, self.aggregate)
        return list(dict.fromkeys(function.rpartition(":")[0] for function in functions if function))


class DispatchSpec(Frozen):
    """Kind `dispatch`: hands each message to a runner of the algorithm that it names, and sends the result.

    wait_for_runner_s: how long a message waits for an algorithm that nobody serves.
    """

    wait_for_runner_s: Annotated[float, Field(gt=0)] = DEFAULT_WAIT_FOR_RUNNER_S


class HandOver(Frozen):
    """What a fused node hands to the node behind it in its process; the last one of a chain hands nothing over.

    subjects: of its plain output, partitions included. stored: whether the stream gets it as well, because somebody
    else reads it, or it answers the callers.
    """

    subjects: tuple[str, ...] = ()
    stored: bool = False


class NodeSpec(Frozen):
    """One planned runner. Field units stand in their names; `None` for a timeout means no limit."""

    durable: str
    retry: RetryPolicy = RetryPolicy()
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    concurrency: int | None = None
    # Worker processes that have the handler; None for a handler in the runner's own process.
    workers: Annotated[int, Field(ge=1)] | None = None
    # The handler gets lists of messages; `concurrency` counts calls.
    batching: BatchingSpec | None = None
    # Set on the workflow's output node: the channel whose messages answer the caller ("main" for the plain output).
    exit_channel: str | None = None
    # Where an ERROR is published so that it reaches the exit node: the own output, or the channel that leads there.
    error_subject: str | None = None
    # False: a given-up message is logged and counted, but not stored.
    keep_dead_letters: bool = True
    # Version of the handler's code, for dead letters.
    handler_version: str = ""
    # Set on an ordered node: its inputs are in so many partitions, each with a consumer named after `durable`.
    partitions: Annotated[int, Field(ge=1)] | None = None
    state: StateSpec | None = None
    join: JoinSpec | None = None
    # What the messages of an input have to fit, by its subject without a partition; what does not is left out.
    when: dict[str, Conditions] = Field(default_factory=dict)
    # Where payloads lie that are larger than a message; None for a node that neither sends nor takes any.
    claims: ClaimsSpec | None = None
    # All outputs of one delivery are stored together, or none.
    atomic: bool = False
    # Set on a node of such a kind, which has no handler of the user's.
    models: ModelsSpec | None = None
    dispatch: DispatchSpec | None = None
    batch: BatchSpec | None = None
    sink: SinkSpec | None = None
    # Own outputs that are published in partitions, by their subjects.
    partitioned: dict[str, Partitions] = Field(default_factory=dict)
    # Set on every node of a fused chain; on the first one, those behind it in their order; on those, its name.
    hand_over: HandOver | None = None
    behind: tuple["FusedNode", ...] = ()
    fused_with: str = ""


class FusedNode(Frozen):
    """A node that runs in the process of the first node of its chain: where it differs from that one's variables.

    input: subject of the output that it reads. configuration: bucket of its own scope. object_store: "" for none.
    """

    node: str
    handler: str
    input: str
    output: str
    configuration: str
    object_store: str = ""
    spec: NodeSpec


NodeSpec.model_rebuild()
