"""The key `batch` of a node with a handler: its table, in the form of those of `spec/fields.py`, and its checks."""

import re
from dataclasses import dataclass

from runtime.spec.batching import MAX_MESSAGES, BatchingSpec
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Value
from runtime.spec.values import Duration, JsonSchema, Number, Spot, WholeNumber, expect_text
from runtime.spec.wiring import NodeDraft

# Most messages that the calls of one replica may hold: each is a task and a delivery in hand.
MAX_IN_CALLS = 16_384
# Largest limit of a call's cost.
MAX_COST = 1e15
FIELD_PATH = re.compile(r"[^.\0]+(\.[^.\0]+)*")
# What may say the order of messages, or that some wait for others.
_ONE_AT_A_TIME = {
    "state": "ordered messages are handled one at a time",
    "order": "ordered messages are handled one at a time",
    "join": "a set of parts is handled by itself",
}


@dataclass(frozen=True, slots=True)
class FieldPath:
    """Names of fields, parted by dots."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "a field of the message: tokens")
        if not FIELD_PATH.fullmatch(text.text):
            remedy = "name a field of the message, with dots into inner ones: document.tokens"
            raise Fault(value.place, f"{spot} is {text}", remedy, "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": r"^[^.]+(\.[^.]+)*$"}


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
    """How messages are grouped for the handler."""

    def read(self, value: Value, spot: Spot, report: Report) -> BatchingSpec:
        read = _BATCHING.read(value, spot, report)
        if ("by" in read) != ("max_cost" in read):
            given, missing = ("by", "max_cost") if "by" in read else ("max_cost", "by")
            raise Fault(
                value.place, f'{spot} has "{given}" and no "{missing}"', f'add it, or remove "{given}"', "missing-key"
            )
        return BatchingSpec(**read)

    def schema(self) -> JsonSchema:
        return {**_BATCHING.schema(), "dependentRequired": {"by": ["max_cost"], "max_cost": ["by"]}}


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
