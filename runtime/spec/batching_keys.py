"""The key `batch` of a node with a handler: its table, in the form of those of `spec/fields.py`, and its checks."""

from dataclasses import dataclass

from runtime.spec.batching import MAX_MESSAGES, BatchingSpec
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Mapping, Text, Value
from runtime.spec.values import Duration, FieldPath, JsonSchema, Number, Spot, WholeNumber, wrong_type
from runtime.spec.wiring import NodeDraft

# Most messages that the calls of one replica may hold: each is a task and a delivery in hand.
MAX_IN_CALLS = 16_384
# Largest limit of a call's cost.
MAX_COST = 1e15
# What may say the order of messages, or that some wait for others.
_ONE_AT_A_TIME = {
    "state": "ordered messages are handled one at a time",
    "order": "ordered messages are handled one at a time",
    "join": "a set of parts is handled by itself",
}


_BATCHING = Record(
    {
        "max": Field(
            type=WholeNumber(most=MAX_MESSAGES),
            default=64,
            attribute="max_messages",
            description="Messages of one call at most",
        ),
        "wait": Field(
            type=Duration(),
            default="8ms",
            attribute="wait_s",
            description="How long the first message of a call waits for others",
        ),
        "by": Field(
            type=FieldPath(),
            description="Field that says what a message costs: its number, or the length of its text or list",
        ),
        "max_cost": Field(type=Number(1, MAX_COST), description="Cost of one call at most"),
    }
)


@dataclass(frozen=True, slots=True)
class Batching:
    """`true`, or a mapping: messages are grouped for the handler."""

    def read(self, value: Value, spot: Spot, report: Report) -> BatchingSpec:
        if isinstance(value, Text) and value.text == "true":
            return BatchingSpec()
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "true or {max: 64, wait: 8ms}")
        read = _BATCHING.read(value, spot, report)
        given = [key for key in ("by", "max_cost") if value.get(key) is not None]
        if len(given) == 1:
            missing = "max_cost" if given == ["by"] else "by"
            remedy = f'add it, or remove "{given[0]}"'
            raise Fault(value.place, f'{spot} has "{given[0]}" and no "{missing}"', remedy, "missing-key")
        return BatchingSpec(**read)

    def schema(self) -> JsonSchema:
        pair = {"by": ["max_cost"], "max_cost": ["by"]}
        return {"anyOf": [{"const": True}, {**_BATCHING.schema(), "dependentRequired": pair}]}


BATCHING_FIELD = Field(
    type=Batching(),
    attribute="batching",
    description="The handler gets lists of messages: up to max, or what has come within wait",
)


def check_batching(draft: NodeDraft, report: Report) -> None:
    """Report what does not go together with `batch`."""
    batching: BatchingSpec | None = draft.values.get("batching")
    if batching is None:
        return
    for key, why in _ONE_AT_A_TIME.items():
        if draft.values.get(key):
            what = f'{draft.title} has "batch" and "{key}", but {why}'
            report.add(Fault(draft.place, what, 'remove one, or put "batch" on a node behind it', "conflict"))
    calls = draft.values.get("concurrency", 1)
    if calls * batching.max_messages > MAX_IN_CALLS:
        what = f"{draft.title} handles {calls} × {batching.max_messages:,} messages at once"
        report.add(
            Fault(draft.place, what, f'lower "concurrency" or "max": {MAX_IN_CALLS:,} is the most', "out-of-range")
        )
