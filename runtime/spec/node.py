"""What one runner is told about its node: the JSON of `KRT_NODE_SPEC`, made by `deploy/plan.py`, read by `node/`.

Everything here is resolved: durations are seconds, sources are subjects and the durable is named, so that a runner
needs neither the workflow file nor a rule of naming.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runtime.spec import names

# Seconds that one delivery may take on a node that says nothing about `timeout`.
DEFAULT_TIMEOUT_S = 60.0
# Messages that an `async def` handler works on at once when the file does not say; a plain `def` gets one.
DEFAULT_ASYNC_CONCURRENCY = 16


class Frozen(BaseModel):
    """Base of the models in `spec/`: unknown keys are faults, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class JoinSpec(Frozen):
    """A node that waits for all parts of a set.

    parts: each input, by its subject without a partition, with the name of its part; the handler gets them in this
    order. key: `request_id`, `state_id` or `header.<name>`. partial: an incomplete set is handled, too, after
    `timeout_s` from its first part; otherwise it is a dead letter.
    """

    bucket: str
    parts: dict[str, str]
    key: str
    timeout_s: float
    partial: bool


class NodeSpec(Frozen):
    """One planned runner. Field units stand in their names; `None` for a timeout means no limit."""

    durable: str
    retry: RetryPolicy = RetryPolicy()
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    concurrency: int | None = None
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
    # All outputs of one delivery are stored together, or none.
    atomic: bool = False
    # Own outputs that are published in partitions, by their subjects.
    partitioned: dict[str, Partitions] = Field(default_factory=dict)
