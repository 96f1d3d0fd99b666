"""The key `replicas` of a node: a number, or a range in which Kubernetes scales."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field as Bound

from runtime.durations import DURATION
from runtime.spec.frozen import Frozen
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Mapping, Text, Value
from runtime.spec.values import Duration, JsonSchema, Number, Spot, WholeNumber, wrong_type

# Most messages of a lag: far more than a stream holds.
MAX_LAG = 1_000_000_000
# Seconds that a message may wait, and messages that a replica handles in a second, when the file does not say.
DEFAULT_LAG_S, DEFAULT_RATE = 10.0, 10.0


class Scaling(Frozen):
    """A range of replicas. lag: messages for each replica, waiting or in work, beyond which another one is started."""

    min: Annotated[int, Bound(ge=1)]
    max: Annotated[int, Bound(ge=1)]
    lag: Annotated[int, Bound(ge=1)]


@dataclass(frozen=True, slots=True)
class Lag:
    """A number of messages, or a duration in seconds: how long the last of them may wait for its turn."""

    def read(self, value: Value, spot: Spot, report: Report) -> int | float | None:
        if isinstance(value, Text) and value.text.isdecimal():
            return WholeNumber(most=MAX_LAG).read(value, spot, report)
        if not isinstance(value, Text) or not DURATION.fullmatch(value.text):
            raise wrong_type(value, spot, "a duration, or a number of messages: 10s or 100")
        return Duration(positive=True).read(value, spot, report)

    def schema(self) -> JsonSchema:
        return {"anyOf": [Duration().schema(), WholeNumber(most=MAX_LAG).schema()]}


RANGE = Record(
    {
        "min": Field(type=WholeNumber(), default=1, description="Replicas to begin with; all there are elsewhere"),
        "max": Field(type=WholeNumber(), required=True, description="Most replicas"),
        "lag": Field(
            type=Lag(), default="10s", description="What may wait for each replica: a time, or a number of messages"
        ),
        "rate": Field(
            type=Number(0.001, 1_000_000),
            default=10,
            description="Messages that a replica handles in a second; makes messages of a lag in time",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many processes share the work: a number, or a range as `Scaling`."""

    def read(self, value: Value, spot: Spot, report: Report) -> int | Scaling:
        if isinstance(value, Mapping):
            return _scaling(value, spot, report)
        if isinstance(value, Text) and value.text.lstrip("-").isdecimal():
            return WholeNumber().read(value, spot, report)
        raise wrong_type(value, spot, "a whole number or {min, max, lag}")

    def schema(self) -> JsonSchema:
        return {"anyOf": [WholeNumber().schema(), RANGE.schema()]}


def _scaling(value: Mapping, spot: Spot, report: Report) -> Scaling:
    given = RANGE.read(value, spot, report)
    least = given.get("min", 1)
    # One that is missing is in the report already.
    most = given.get("max", least)
    if most < least:
        what = f"{spot} goes from {least} to {most}"
        raise Fault(value.place, what, "lower min, or raise max", "out-of-range")
    lag: int | float = given.get("lag", DEFAULT_LAG_S)
    if isinstance(lag, int) and "rate" in given:
        what = f'{spot} has "rate", and a lag of {lag} messages, which has no use for it'
        raise Fault(value.place, what, "remove it, or write the lag as a time: 10s", "conflict")
    messages = lag if isinstance(lag, int) else max(1, round(lag * given.get("rate", DEFAULT_RATE)))
    return Scaling(min=least, max=most, lag=messages)


def replica_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a node with a range written out: its `min` are the replicas."""
    written = values.get("replicas")
    return {**values, "replicas": written.min, "scaling": written} if isinstance(written, Scaling) else values
