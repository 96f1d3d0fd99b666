"""The key `when` of a source: which of its messages a node reads. Equality alone; logic belongs into handlers."""

import re
from collections.abc import Mapping as Table
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from runtime.spec import names
from runtime.spec.node import Conditions
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Items, Mapping, Text, Value
from runtime.spec.values import AnyText, JsonSchema, Name, Spot, check_name, expect_mapping, expect_text

# Of a source that is read as a whole.
NO_CONDITIONS: Table[str, tuple[str, ...]] = MappingProxyType({})

# Channels that the runtime names itself: the plain output, and the partitions of an ordered one.
OWN_CHANNELS = re.compile(rf"{names.MAIN_CHANNEL}|p[0-9]+")


def check_channel(channel: str, at: Text) -> None:
    """Raise a fault at `at` unless a handler may send to a channel of this name."""
    if OWN_CHANNELS.fullmatch(channel):
        remedy = "name the node alone" if channel == names.MAIN_CHANNEL else "choose another name"
        raise Fault(at.place, f'the channel "{channel}" belongs to the runtime', remedy, "reserved-name")
    check_name(channel, at)


def _one_or_more(value: Value, spot: Spot) -> tuple[Value, ...]:
    """Return a value alone, or the items of a list, which is not empty."""
    if not isinstance(value, Items):
        return (value,)
    if not value.items:
        raise Fault(value.place, f"{spot} is an empty list", "name a value, or remove the key", "wrong-type")
    return value.items


def _not_empty(value: Value, spot: Spot, example: str, remedy: str) -> Mapping:
    mapping = expect_mapping(value, spot, example)
    if not mapping.entries:
        raise Fault(value.place, f"{spot} is empty", remedy, "missing-key")
    return mapping


def _one_or_more_of(schema: JsonSchema) -> JsonSchema:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


@dataclass(frozen=True, slots=True)
class HeaderValues:
    """Headers with a value, or with several of which a message has one."""

    def read(self, value: Value, spot: Spot, report: Report) -> Conditions:
        found: Conditions = {}
        for entry in _not_empty(value, spot, "{kind: scan}", "name a header: {kind: scan}").entries:
            with report.collecting():
                header = expect_text(entry.key, spot, "the name of a header").text
                here = Spot(header, str(spot))
                values = (AnyText().read(item, here, report) for item in _one_or_more(entry.value, here))
                found[header] = tuple(dict.fromkeys(values))
        return found

    def schema(self) -> JsonSchema:
        values = _one_or_more_of(AnyText().schema())
        return {"type": "object", "additionalProperties": values, "minProperties": 1}


@dataclass(frozen=True, slots=True)
class ChannelNames:
    """One channel, or a list of them; `main` is the plain output. Each comes with its place."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[Text, ...]:
        found: list[Text] = []
        for item in _one_or_more(value, spot):
            with report.collecting():
                channel = expect_text(item, spot, "the name of a channel")
                if channel.text != names.MAIN_CHANNEL:
                    check_channel(channel.text, channel)
                found.append(channel)
        return tuple(found)

    def schema(self) -> JsonSchema:
        return _one_or_more_of(Name().schema())


_CONDITIONS = Record(
    {
        "header": Field(
            type=HeaderValues(),
            description="Headers that a message has to have, with their values; a list means any of them",
        ),
        "channel": Field(
            type=ChannelNames(), description="Channels of the node; a list means any, main is the plain output"
        ),
    }
)


@dataclass(frozen=True, slots=True)
class When:
    """What holds of every message that is read: all of its keys."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, Any]:
        remedy = "name a header or a channel, or remove it"
        return _CONDITIONS.read(_not_empty(value, spot, "{header: {kind: scan}}", remedy), spot, report)

    def schema(self) -> JsonSchema:
        return {**_CONDITIONS.schema(), "minProperties": 1}
