"""The types that a value of the workflow file can have: how each is read from text, and its JSON Schema.

A type is a small object with `read`, which returns the converted value or raises `Fault`, and `schema`. What the loader
takes and what `krt schema` prints come from the same objects (the tables in `spec/fields.py`).
"""

import json
import re
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.durations import DURATION as DURATION
from runtime.durations import SECONDS as SECONDS
from runtime.spec import names
from runtime.spec.report import Fault, Report, did_you_mean, listed
from runtime.spec.tree import Items, Mapping, Text, Value

JsonSchema = dict[str, Any]

SIZE = re.compile(r"([0-9]{1,9})(Ki|Mi|Gi|Ti)")
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,12}")
NUMBER = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
EXCEPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
# A reference to a container image: registry, path, tag and digest, of which the engine knows the rest.
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
FIELD_PATH = re.compile(r"[^.\0]+(\.[^.\0]+)*")
# What NATS takes as the key of a key-value bucket, without a dot at either end.
CONFIG_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
# A plain scalar that JSON reads as itself; any other becomes a string inside a JSON text.
JSON_LITERAL = re.compile(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")

BYTES = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
# The longest duration in seconds (100 years) and the largest size in bytes (1 Pi): the server counts ns and bytes
# in 64 bits.
MAX_DURATION_S = 36500 * 86400.0
MAX_SIZE_BYTES = 1024**5

# How problems end that name something a later version brings.
NOT_YET = "which this version does not do yet"

# Prefix of the variables that the runtime itself gives to its processes.
RESERVED_VARIABLES = "KRT_"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value stands, as a problem names it: `"attempts" of node "score"`."""

    key: str
    owner: str

    def __str__(self) -> str:
        return f'"{self.key}" of {self.owner}' if self.key else self.owner


class ValueType(Protocol):
    """What the value of a key has to be."""

    def read(self, value: Value, spot: Spot, report: Report) -> Any:
        """Return the converted value. Raises Fault; a type that holds others puts their faults into the report."""
        ...

    def schema(self) -> JsonSchema:
        """Return what an editor checks; it may allow more than `read` does, never less."""
        ...


def expect_text(value: Value, spot: Spot, expected: str) -> Text:
    """Return the value if it is a text that is not empty; a fault says what was `expected`."""
    if not isinstance(value, Text) or not value.text:
        raise wrong_type(value, spot, expected)
    return value


def expect_mapping(value: Value, spot: Spot, example: str = "") -> Mapping:
    """Return the value if it is a mapping; a fault shows the example."""
    if not isinstance(value, Mapping):
        raise wrong_type(value, spot, f"a mapping: {example}" if example else "a mapping")
    return value


def wrong_type(value: Value, spot: Spot, expected: str) -> Fault:
    """Return the fault of a value that is of another type."""
    return Fault(value.place, f"{spot} is {value}", f"give {expected}", "wrong-type")


@dataclass(frozen=True, slots=True)
class AnyText:
    """Text as it was written."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        if not isinstance(value, Text):
            raise wrong_type(value, spot, "a text")
        if "\0" in value.text:
            raise Fault(value.place, f"{spot} holds a NUL character", "remove it", "wrong-value")
        return value.text

    def schema(self) -> JsonSchema:
        # What YAML calls a number or a boolean stays the text that it is.
        return {"type": ["string", "number", "boolean", "null"]}


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a workflow, version, node or channel."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "a name")
        check_name(text.text, text)
        return text.text

    def schema(self) -> JsonSchema:
        # `version: 3` is a number for an editor, and a name here.
        pattern = f"^{names.NAME_PATTERN.pattern}$"
        return {"type": ["string", "integer"], "pattern": pattern, "maxLength": names.MAX_NAME_LENGTH}


def check_name(name: str, at: Text) -> None:
    """Raise a fault at `at` unless `name` can name something."""
    if names.is_name(name):
        return
    shown = name[: names.MAX_NAME_LENGTH + 1]
    suggestion = names.suggest_name(name)
    remedy = f'use a-z, 0-9 and "-", {names.MAX_NAME_LENGTH} characters at most'
    remedy = f'{remedy}: "{suggestion}"' if suggestion else remedy
    raise Fault(at.place, f'"{shown}" is no name', remedy, "bad-name")


@dataclass(frozen=True, slots=True)
class Path:
    """Path of a file beside the workflow file, with "/"; whether it stays there is the loader's business."""

    def read(self, value: Value, spot: Spot, report: Report) -> Text:
        text = expect_text(value, spot, "the path of a file")
        if "\0" in text.text:
            raise Fault(value.place, f"{spot} holds a NUL character", "remove it", "wrong-value")
        return text

    def schema(self) -> JsonSchema:
        return {"type": "string", "minLength": 1}


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


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """A whole number within bounds."""

    least: int = 1
    most: int = 1000

    def read(self, value: Value, spot: Spot, report: Report) -> int:
        text = expect_text(value, spot, "a whole number")
        if not WHOLE_NUMBER.fullmatch(text.text):
            raise wrong_type(value, spot, "a whole number")
        return int(_within(int(text.text), self.least, self.most, text, spot))

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds."""

    least: float
    most: float

    def read(self, value: Value, spot: Spot, report: Report) -> float:
        text = expect_text(value, spot, "a number")
        if not NUMBER.fullmatch(text.text):
            raise wrong_type(value, spot, "a number")
        return _within(float(text.text), self.least, self.most, text, spot)

    def schema(self) -> JsonSchema:
        return {"type": "number", "minimum": self.least, "maximum": self.most}


def _within(number: float, least: float, most: float, text: Text, spot: Spot) -> float:
    if number < least:
        raise Fault(text.place, f"{spot} is {text.text}", f"give {least:g} or more", "out-of-range")
    if number > most:
        raise Fault(text.place, f"{spot} is {text.text}", f"give {most:g} or less", "out-of-range")
    return number


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration, in seconds. `positive`: 0 is refused. `or_none`: `none` is read as None, no limit."""

    positive: bool = False
    or_none: bool = False

    def read(self, value: Value, spot: Spot, report: Report) -> float | None:
        text = expect_text(value, spot, "a duration: 30s")
        if self.or_none and text.text == "none":
            return None
        match = DURATION.fullmatch(text.text)
        if match is None:
            remedy = "write a number and ms, s, m, h or d: " + (f"{text.text}s" if text.text.isdecimal() else "30s")
            raise Fault(text.place, f"{spot} is {text}", remedy, "bad-duration")
        seconds = int(match[1]) * SECONDS[match[2]]
        if self.positive and not seconds:
            remedy = "give 1ms or more, or none for no limit" if self.or_none else "give 1ms or more"
            raise Fault(text.place, f"{spot} is {text.text}", remedy, "out-of-range")
        if seconds > MAX_DURATION_S:
            raise Fault(text.place, f"{spot} is {text.text}", "give 36500d or less", "out-of-range")
        return seconds

    def schema(self) -> JsonSchema:
        pattern = f"^{DURATION.pattern}$"
        return {"type": "string", "pattern": f"{pattern}|^none$" if self.or_none else pattern}


@dataclass(frozen=True, slots=True)
class Size:
    """A size, in bytes."""

    def read(self, value: Value, spot: Spot, report: Report) -> int:
        text = expect_text(value, spot, "a size: 1Gi")
        match = SIZE.fullmatch(text.text)
        if match is None:
            number = re.match(r"[0-9]{1,9}", text.text)
            remedy = f"write a whole number and Ki, Mi, Gi or Ti: {number[0] if number else 20}Gi"
            raise Fault(text.place, f"{spot} is {text}", remedy, "bad-size")
        size = int(match[1]) * BYTES[match[2]]
        if not 0 < size <= MAX_SIZE_BYTES:
            remedy = "give 1024Ti or less" if size else "give 1Ki or more"
            raise Fault(text.place, f"{spot} is {text.text}", remedy, "out-of-range")
        return size

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{SIZE.pattern}$"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words. `planned` are those that a later version knows, with what they are."""

    words: tuple[str, ...]
    planned: Table[str, str] = field(default_factory=dict)

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, listed(self.words))
        if text.text in self.planned:
            raise not_yet(f'"{spot.key}: {text.text}" of {spot.owner} {self.planned[text.text]}', text)
        if text.text not in self.words:
            remedy = did_you_mean(text.text, self.words, self.planned)
            raise Fault(text.place, f"{spot} is {text}", remedy, "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"enum": [int(word) if word.isdecimal() else word for word in self.words]}


@dataclass(frozen=True, slots=True)
class Switch:
    """`true` or `false`."""

    def read(self, value: Value, spot: Spot, report: Report) -> bool:
        text = expect_text(value, spot, "true or false")
        if text.text not in ("true", "false"):
            raise Fault(text.place, f"{spot} is {text}", "write true or false", "wrong-value")
        return text.text == "true"

    def schema(self) -> JsonSchema:
        return {"type": "boolean"}


def not_yet(what: str, at: Value) -> Fault:
    """Return the fault of something that a later version of the runtime will do."""
    return Fault(at.place, f"{what}, {NOT_YET}", "remove it", "not-yet")


@dataclass(frozen=True, slots=True)
class ExceptionNames:
    """A list of names of exception classes."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[str, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of exception classes: [ValueError]")
        found: list[str] = []
        for item in value.items:
            with report.collecting():
                text = expect_text(item, spot, "the name of an exception class")
                if not EXCEPTION.fullmatch(text.text):
                    remedy = "name a class as Python does: ValueError"
                    raise Fault(item.place, f"{spot} holds {text}", remedy, "bad-name")
                found.append(text.text)
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": {"type": "string", "pattern": f"^{EXCEPTION.pattern}$"}}


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class of the user's, as `module:Class`."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "a class as module:Class")
        if not CLASS.fullmatch(text.text):
            raise Fault(value.place, f"{spot} is {text}", "name a class of your own: module:Class", "bad-name")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{CLASS.pattern}$"}


@dataclass(frozen=True, slots=True)
class ImageName:
    """A container image."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "the name of an image: registry.example/score:1.4")
        if not IMAGE.fullmatch(text.text):
            remedy = "name it as an engine does: registry.example/score:1.4"
            raise Fault(value.place, f"{spot} is {text}", remedy, "bad-name")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{IMAGE.pattern}$"}


def check_variable(name: Text, spot: Spot) -> None:
    """Raise a fault unless a process may be given a variable of this name."""
    if not VARIABLE.fullmatch(name.text):
        raise Fault(name.place, f"{spot} has the key {name}", "use letters, digits and _: API_URL", "bad-name")
    if name.text.startswith(RESERVED_VARIABLES):
        what = f'{spot} names "{name.text}", and {RESERVED_VARIABLES}* is set by the runtime'
        raise Fault(name.place, what, "choose another name", "reserved-name")


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables of a process: text as it was written."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in expect_mapping(value, spot).entries:
            with report.collecting():
                check_variable(entry.key, spot)
                found[entry.key.text] = AnyText().read(entry.value, Spot(entry.key.text, spot.owner), report)
        return found

    def schema(self) -> JsonSchema:
        pattern = f"^{VARIABLE.pattern}$"
        return {
            "type": "object",
            "propertyNames": {"pattern": pattern, "not": {"pattern": f"^{RESERVED_VARIABLES}"}},
            "additionalProperties": AnyText().schema(),
        }


@dataclass(frozen=True, slots=True)
class Configuration:
    """Values of a configuration scope: a scalar keeps its text, a list or a mapping becomes JSON text."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in expect_mapping(value, spot).entries:
            with report.collecting():
                if not CONFIG_KEY.fullmatch(entry.key.text):
                    remedy = "use letters, digits and - _ / = with single dots between"
                    raise Fault(entry.key.place, f"{spot} has the key {entry.key}", remedy, "bad-name")
                found[entry.key.text] = _config_text(entry.value)
        return found

    def schema(self) -> JsonSchema:
        return {"type": "object", "propertyNames": {"pattern": f"^{CONFIG_KEY.pattern}$"}}


def _config_text(value: Value) -> str:
    return value.text if isinstance(value, Text) else json_text(value)


def json_text(value: Value) -> str:
    """Return the value as JSON; a number keeps its digits, `1.10` stays `1.10`."""
    if isinstance(value, Text):
        as_written = value.plain and JSON_LITERAL.fullmatch(value.text)
        return value.text if as_written else json.dumps(value.text, ensure_ascii=False)
    if isinstance(value, Items):
        return f"[{', '.join(json_text(item) for item in value.items)}]"
    entries = (f"{json.dumps(e.key.text, ensure_ascii=False)}: {json_text(e.value)}" for e in value.entries)
    return f"{{{', '.join(entries)}}}"
