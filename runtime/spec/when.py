"""The key `when` of a source: which of its messages a node reads. Equality alone; logic belongs into handlers.

What is read here becomes the `Conditions` of `spec/selection.py`, and sources of their own for channels.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.spec import names
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.selection import JsonScalar
from runtime.spec.tree import Items, Mapping, Text, Value
from runtime.spec.values import (
    FIELD_PATH,
    AnyText,
    FieldPath,
    JsonSchema,
    Name,
    Spot,
    check_name,
    expect_mapping,
    expect_text,
    json_text,
    wrong_type,
)

# Channels that the runtime names itself: the plain output, and the partitions of an ordered one.
OWN_CHANNELS = re.compile(rf"{names.MAIN_CHANNEL}|p[0-9]+")
JSON_WORDS = ("true", "false", "null")
# In capitals as well: what YAML takes for one of these, where as a text it would be a condition that nothing fits.
LIKE_JSON_WORDS = (*JSON_WORDS, "~", "")


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

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
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
class PlainValue:
    """A text, a number, true, false or null, told apart as JSON does; what JSON does not know is a text."""

    def read(self, value: Value, spot: Spot, report: Report) -> JsonScalar:
        if not isinstance(value, Text):
            raise wrong_type(value, spot, "a text, a number, true, false or null")
        if value.plain and value.text not in JSON_WORDS and value.text.lower() in LIKE_JSON_WORDS:
            remedy = "write true, false or null, or put a text into quotes"
            raise Fault(value.place, f"{spot} is {value}", remedy, "wrong-value")
        try:
            # By what reads payloads, so that the same digits are the same number.
            scalar: JsonScalar = orjson.loads(json_text(value))
        except orjson.JSONDecodeError as error:
            remedy = "give one of 64 bits, or put a text into quotes"
            raise Fault(value.place, f"{spot} is a number beyond those of JSON", remedy, "out-of-range") from error
        return scalar

    def schema(self) -> JsonSchema:
        return {"type": ["string", "number", "boolean", "null"]}


@dataclass(frozen=True, slots=True)
class FieldValues:
    """Fields with a value, or with several of which a message has one."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, tuple[JsonScalar, ...]]:
        found: dict[str, tuple[JsonScalar, ...]] = {}
        for entry in _not_empty(value, spot, "{label: cat}", "name a field: {label: cat}").entries:
            with report.collecting():
                path = _expect_path(entry.key, spot)
                here = Spot(path, str(spot))
                found[path] = tuple(PlainValue().read(item, here, report) for item in _one_or_more(entry.value, here))
        return found

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": FieldPath().schema(),
            "additionalProperties": _one_or_more_of(PlainValue().schema()),
            "minProperties": 1,
        }


def _expect_path(key: Text, spot: Spot) -> str:
    if not FIELD_PATH.fullmatch(key.text):
        remedy = "name a field of the message, with dots into inner ones: meta.camera"
        raise Fault(key.place, f"{spot} has the key {key}", remedy, "wrong-value")
    return key.text


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
            attribute="headers",
            description="Headers that a message has to have, with their values; a list means any of them",
        ),
        "field": Field(
            type=FieldValues(),
            attribute="fields",
            description="Fields of a payload that is a JSON object, with their values; a list means any of them",
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
        remedy = "name a header, a field or a channel, or remove it"
        return _CONDITIONS.read(_not_empty(value, spot, "{header: {kind: scan}}", remedy), spot, report)

    def schema(self) -> JsonSchema:
        return {**_CONDITIONS.schema(), "minProperties": 1}
