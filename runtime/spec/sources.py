"""What a node reads, as it stands in the file: sources, and the parts of a join. Not looked up yet."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.spec import names
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Place, Report
from runtime.spec.selection import Conditions
from runtime.spec.tree import Items, Mapping, Text, Value
from runtime.spec.values import Choice, Duration, JsonSchema, Spot, expect_text, wrong_type
from runtime.spec.when import When, check_channel


class WrittenSource(NamedTuple):
    """A source as the file has it: not looked up yet. when: what its messages have to fit; None takes all of them."""

    node: str
    channel: str
    place: Place
    when: Conditions | None = None

    def __str__(self) -> str:
        return f"{self.node}.{self.channel}" if self.channel else self.node


@dataclass(frozen=True, slots=True)
class OneSource:
    """`entrypoint`, `node` or `node.channel`."""

    def read(self, value: Value, spot: Spot, report: Report) -> WrittenSource:
        text = expect_text(value, spot, "a node or node.channel")
        node, dot, channel = text.text.partition(".")
        if dot:
            check_channel(channel, text)
        return WrittenSource(node, channel, text.place)

    def schema(self) -> JsonSchema:
        name = names.NAME_PATTERN.pattern
        return {"type": ["string", "integer"], "pattern": rf"^{name}(\.{name})?$"}


_SELECTED = Record(
    {
        "node": Field(type=OneSource(), required=True, description="entrypoint, node or node.channel"),
        "when": Field(type=When(), description="Which of its messages are read; the others are left out"),
    }
)


@dataclass(frozen=True, slots=True)
class SelectedSource:
    """A source, or `{node, when}`: those of its messages that fit. It is several where `when` names channels."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[WrittenSource, ...]:
        if not isinstance(value, Mapping):
            return (OneSource().read(value, spot, report),)
        values = _SELECTED.read(value, spot, report)
        if "node" not in values:
            return ()
        source: WrittenSource = values["node"]
        when = values.get("when", {})
        channels = when.pop("channel", None)
        if when:
            source = source._replace(when=Conditions(**when))
        return (source,) if channels is None else _channels_of(source, channels)

    def schema(self) -> JsonSchema:
        return {"anyOf": [OneSource().schema(), _SELECTED.schema()]}


def _channels_of(source: WrittenSource, channels: tuple[Text, ...]) -> tuple[WrittenSource, ...]:
    """Return a source for each channel of a node, which the server then filters."""
    if source.channel:
        what = f'"{source}" names a channel, and "when" as well'
        raise Fault(source.place, what, f"write {{node: {source.node}, when: {{channel: [..]}}}}", "conflict")
    return tuple(
        source._replace(channel="" if each.text == names.MAIN_CHANNEL else each.text, place=each.place)
        for each in channels
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """One source, or a list of them: any message of any of them."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[WrittenSource, ...]:
        if not isinstance(value, Items):
            return SelectedSource().read(value, spot, report)
        if not value.items:
            remedy = "name a source, or remove the key to read the node above"
            raise Fault(value.place, f"{spot} is an empty list", remedy, "wrong-type")
        found: list[WrittenSource] = []
        for item in value.items:
            with report.collecting():
                found += SelectedSource().read(item, spot, report)
        return tuple(found)

    def schema(self) -> JsonSchema:
        one = SelectedSource().schema()
        return {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}]}


class WrittenPart(NamedTuple):
    """One part of a join: the name by which the handler gets it, and where it comes from."""

    name: str
    source: WrittenSource


@dataclass(frozen=True, slots=True)
class Parts:
    """The sources of a join, all of which are waited for: a list of them, or a mapping of part names to them."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[WrittenPart, ...]:
        written: list[tuple[Text | None, Value]]
        if isinstance(value, Items):
            written = [(None, item) for item in value.items]
        elif isinstance(value, Mapping):
            written = [(entry.key, entry.value) for entry in value.entries]
        else:
            raise wrong_type(value, spot, "a list of sources, or a mapping of names to them")
        if len(written) < 2:
            raise Fault(value.place, f"{spot} names {len(written)} source", "name two or more", "out-of-range")
        found: list[WrittenPart] = []
        for name, source in written:
            with report.collecting():
                if name is not None and not name.text.isidentifier():
                    remedy = "use letters, digits and _, as for a field of a class"
                    raise Fault(name.place, f"{spot} has the part {name}", remedy, "bad-name")
                for read in _one_source(SelectedSource().read(source, spot, report), source, spot):
                    found.append(WrittenPart(name.text if name else str(read), read))
        return tuple(found)

    def schema(self) -> JsonSchema:
        one = SelectedSource().schema()
        return {
            "anyOf": [
                {"type": "array", "items": one, "minItems": 2},
                {"type": "object", "additionalProperties": one, "minProperties": 2},
            ]
        }


def _one_source(read: tuple[WrittenSource, ...], value: Value, spot: Spot) -> tuple[WrittenSource, ...]:
    """Return what was read of a part, which is one source, or none where its faults are told."""
    if len(read) > 1:
        what = f"{spot} has {len(read)} channels in one part"
        raise Fault(value.place, what, "make a part of each: all parts are waited for", "wrong-value")
    return read


# What parts may be joined by: the request, the state id, or the value of a header.
JOIN_KEY = re.compile(r"request_id|state_id|header\.[^\s.][^\s]*")


@dataclass(frozen=True, slots=True)
class JoinKey:
    """By what parts belong together."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "request_id, state_id or header.<name>")
        if not JOIN_KEY.fullmatch(text.text):
            raise Fault(value.place, f"{spot} is {text}", "use request_id, state_id or header.<name>", "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^({JOIN_KEY.pattern})$"}


JOIN = Record(
    {
        "of": Field(
            type=Parts(), required=True, description="The sources to wait for, or a mapping of part names to them"
        ),
        "key": Field(
            type=JoinKey(),
            default="request_id",
            description="What the parts of a set have in common: request_id, state_id or header.<name>",
        ),
        "timeout": Field(
            type=Duration(positive=True),
            default="30s",
            attribute="timeout_s",
            description="How long a set waits for its parts, from its first one on",
        ),
        "on_timeout": Field(
            type=Choice(("dead_letter", "partial")),
            default="dead_letter",
            description="What becomes of an incomplete set: a dead letter, or the handler gets what is there",
        ),
    }
)


class WrittenJoin(NamedTuple):
    """A join as the file has it. values: its other keys, named as in the models."""

    parts: tuple[WrittenPart, ...]
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Joining:
    """A node that waits for all parts."""

    def read(self, value: Value, spot: Spot, report: Report) -> WrittenJoin:
        values = JOIN.read(value, spot, report)
        return WrittenJoin(values.pop("of", ()), values)

    def schema(self) -> JsonSchema:
        return JOIN.schema()
