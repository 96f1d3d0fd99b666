"""The drivers of a workflow file: how their mapping is read, and what two of them cannot share.

What belongs to the class of a driver (its options and parameters) is kept as it is written: the class itself checks it,
when `krt check` imports it, and problems find their place through the `DriverDraft`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.spec import names
from runtime.spec.driver import BUILT_IN_DRIVERS, driver_class
from runtime.spec.model import Driver
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Place, Report, nearest
from runtime.spec.resources import IMAGE_FIELD, RESOURCES_FIELD
from runtime.spec.secret_names import SECRETS_FIELD, secret_values
from runtime.spec.tree import Entry, Items, Mapping, Text, Value
from runtime.spec.values import (
    CLASS,
    AnyText,
    Duration,
    Environment,
    JsonSchema,
    Name,
    Spot,
    WholeNumber,
    expect_mapping,
    expect_text,
    json_text,
    wrong_type,
)
from runtime.spec.wiring import NodeDraft

# The most replicas of a driver: each is a process with a connection.
MAX_REPLICAS = 100
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverDraft:
    """A driver with the places that it was read from. written: its mapping, or the text of the short form."""

    driver: Driver
    place: Place
    written: Value

    @property
    def title(self) -> str:
        return f'driver "{self.driver.name}"'

    def place_of(self, path: Sequence[str]) -> Place:
        """Return where a value below the driver stands, or the nearest one above it that the file has."""
        value, place = self.written, self.place
        for key in path:
            step = _step(value, key)
            if step is None:
                break
            place, value = step
        return place


def _step(value: Value, key: str) -> tuple[Place, Value] | None:
    """Return the place and the value of a key, or of the number of an item; None where there is no such thing."""
    if isinstance(value, Mapping):
        found = next((entry for entry in value.entries if entry.key.text == key), None)
        return None if found is None else (found.key.place, found.value)
    if isinstance(value, Items) and key.isdecimal() and int(key) < len(value.items):
        return value.items[int(key)].place, value.items[int(key)]
    return None


@dataclass(frozen=True, slots=True)
class DriverClass:
    """A driver that comes with the runtime, by its word or the name of its class, or `module:Class`."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        found = driver_class(expect_text(value, spot, "the class of a driver").text)
        if found not in BUILT_IN_DRIVERS and not CLASS.fullmatch(found):
            raise Fault(value.place, f"{spot} is {value}", _class_remedy(found), "wrong-value")
        return found

    def schema(self) -> JsonSchema:
        known = [*BUILT_IN_DRIVERS, *BUILT_IN_DRIVERS.values()]
        return {"type": "string", "anyOf": [{"enum": known}, {"pattern": f"^{CLASS.pattern}$"}]}


def _class_remedy(text: str) -> str:
    if near := nearest(text, [*BUILT_IN_DRIVERS, *BUILT_IN_DRIVERS.values()]):
        return f'did you mean "{near}"?'
    return f"use {', '.join(BUILT_IN_DRIVERS)}, or module:Class for one of your own"


@dataclass(frozen=True, slots=True)
class Anything:
    """A value that somebody else checks: scalars as JSON has them, every other text as it is written."""

    def read(self, value: Value, spot: Spot, report: Report) -> Any:
        return json.loads(json_text(value), parse_float=_finite(value, spot))

    def schema(self) -> JsonSchema:
        return {}


def _finite(value: Value, spot: Spot) -> Any:
    def parse(text: str) -> float:
        if math.isinf(number := float(text)):
            raise Fault(value.place, f"{spot} holds {text}", "give a smaller number, or quote it", "out-of-range")
        return number

    return parse


@dataclass(frozen=True, slots=True)
class Values:
    """A mapping of names to values that the class checks."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, Any]:
        found: dict[str, Any] = Anything().read(expect_mapping(value, spot), spot, report)
        return found

    def schema(self) -> JsonSchema:
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Ports:
    """Numbers of TCP ports by the names that the driver's class gives them; 0 is a free one."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in expect_mapping(value, spot).entries:
            with report.collecting():
                here = Spot(entry.key.text, f"{spot}")
                found[entry.key.text] = WholeNumber(least=0, most=MAX_PORT).read(entry.value, here, report)
        return found

    def schema(self) -> JsonSchema:
        return {"type": "object", "additionalProperties": WholeNumber(least=0, most=MAX_PORT).schema()}


# Keys that belong to the class, with what they say to the built-in ones.
OPTIONS = {
    "args": Field(type=Values(), description="Arguments of the class, by name"),
    "auth": Field(type=Anything(), description="Who is let in"),
    "tls": Field(type=Anything(), description="Folder of credentials for TLS"),
    "proto": Field(type=Anything(), description="grpc: the .proto file, beside this file"),
    "services": Field(type=Anything(), description="grpc: workflow by service"),
    "sources": Field(type=Anything(), description="source-sink: where inputs come from, by name"),
    "sinks": Field(type=Anything(), description="source-sink: where outputs go, by name"),
}

DRIVER = Record(
    {
        "class": Field(
            type=DriverClass(),
            required=True,
            attribute="type",
            description="http, grpc, source-sink, or module:Class of one beside this file",
        ),
        "description": Field(type=AnyText(), description="Text shown by the command line"),
        "ports": Field(type=Ports(), description="Port numbers by name; free ones by default"),
        "parameters": Field(
            type=Values(), description="What the class lets be changed while it runs, and at its start"
        ),
        "timeout": Field(
            type=Duration(positive=True),
            default="30s",
            attribute="timeout_s",
            description="Deadline of the requests that say nothing about it",
        ),
        "replicas": Field(type=WholeNumber(most=MAX_REPLICAS), default=1, description="Processes of the same driver"),
        "env": Field(type=Environment(), description="Variables of the process: text as written"),
        "secrets": SECRETS_FIELD,
        "resources": RESOURCES_FIELD,
        "image": IMAGE_FIELD,
        **OPTIONS,
    }
)


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers by their names; `api: http` is short for `api: {class: http}`."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[DriverDraft, ...]:
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "a mapping of names to drivers: {api: http}")
        return tuple(draft for entry in value.entries for draft in _read(entry, report))

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": Name().schema(),
            "additionalProperties": {"anyOf": [DriverClass().schema(), DRIVER.schema()]},
        }


def _read(entry: Entry, report: Report) -> Iterator[DriverDraft]:
    """Yield the driver of an entry, if it can be read as far as its class."""
    spot = Spot("", f'driver "{entry.key.text[: names.MAX_NAME_LENGTH]}"')
    values: dict[str, Any] = {}
    with report.collecting():
        Name().read(entry.key, spot, report)
    with report.collecting():
        if isinstance(entry.value, Text):
            values["type"] = DriverClass().read(entry.value, Spot("class", spot.owner), report)
        elif isinstance(entry.value, Mapping):
            values = DRIVER.read(entry.value, spot, report)
        else:
            raise wrong_type(entry.value, spot, "its class, or a mapping: {class: http}")
    if "type" not in values:
        return
    options = {key: values.pop(key) for key in OPTIONS if key in values and key != "args"}
    arguments = {**values.pop("args", {}), **options}
    driver = Driver(name=entry.key.text, arguments=arguments, **secret_values(values))
    yield DriverDraft(driver=driver, place=entry.key.place, written=entry.value)


def check_drivers(drafts: Sequence[DriverDraft], nodes: Sequence[NodeDraft], report: Report) -> None:
    """Report drivers that share a name with a node, and ports that several processes would listen on."""
    places = {node.name: node.place for node in nodes}
    takers: dict[int, str] = {}
    for draft in drafts:
        with report.collecting():
            _check_name(draft, places)
        for name, number in draft.driver.ports.items():
            with report.collecting():
                _check_port(draft, name, number, takers)


def _check_name(draft: DriverDraft, nodes: dict[str, Place]) -> None:
    name = draft.driver.name
    if name == names.ENTRYPOINT:
        what = f"{draft.title} has the name of the virtual source"
        raise Fault(draft.place, what, "choose another name", "reserved-name")
    if name in nodes:
        # Dead letters lie under the name of the node, or of the driver.
        what = f"{draft.title} has the name of a node, at line {nodes[name].line}"
        raise Fault(draft.place, what, "rename one", "duplicate-name")


def _check_port(draft: DriverDraft, name: str, number: int, takers: dict[int, str]) -> None:
    place = draft.place_of(("ports", name))
    if number and draft.driver.replicas > 1:
        what = f"{draft.title} has {draft.driver.replicas} replicas, and only one can listen on port {number}"
        raise Fault(place, what, f"give 0 for free ports, or remove {name}", "conflict")
    if number and number in takers:
        what = f"{draft.title} listens on port {number}, as {takers[number]} does"
        raise Fault(place, what, "give another number to one of them", "conflict")
    takers[number] = draft.title
