"""A mapping with known keys: how it is read, and how it is shown. The tables of keys are in `spec/fields.py`."""

from collections.abc import Iterable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Any

from runtime.spec.report import Fault, Report, did_you_mean
from runtime.spec.tree import Entry, Mapping, Value
from runtime.spec.values import JsonSchema, Spot, ValueType, expect_mapping, not_yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key. `default` is written as in the file (None: there is none to show).

    attribute: the name of the value in the models, where it is another one than the key's.
    """

    type: ValueType
    description: str
    default: Any = None
    required: bool = False
    attribute: str = ""

    def schema(self) -> JsonSchema:
        schema = {"description": self.description, **self.type.schema()}
        return schema if self.default is None else {**schema, "default": self.default}


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys; what it reads is named as in the models.

    planned: keys of a later version, with what they do. owner: how problems name the mapping (default: as around it).
    elsewhere: keys that are for another kind of such a mapping, with why they are not for this one.
    inside: keys that somebody looks for here and that are written inside of another one, with how.
    beside: keys that would make it another kind of such a mapping, for somebody who looks for one of them.
    """

    fields: Table[str, Field]
    planned: Table[str, str] = field(default_factory=dict)
    owner: str = ""
    elsewhere: Table[str, str] = field(default_factory=dict)
    inside: Table[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, Any]:
        mapping = expect_mapping(value, spot, self._example())
        inner = Spot("", self.owner) if self.owner else spot
        found: dict[str, Any] = {}
        for entry in mapping.entries:
            with report.collecting():
                self._check_key(entry, inner)
                known = self.fields[entry.key.text]
                here = Spot(entry.key.text, inner.owner)
                found[known.attribute or entry.key.text] = known.type.read(entry.value, here, report)
        with report.collecting():
            self._check_complete(mapping, inner)
        return found

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "properties": {key: known.schema() for key, known in self.fields.items()},
            "required": [key for key, known in self.fields.items() if known.required],
            "additionalProperties": False,
        }

    def _example(self) -> str:
        key, known = next(iter(self.fields.items()))
        return f"{{{key}: {'…' if known.default is None else known.default}}}"

    def _check_key(self, entry: Entry, spot: Spot) -> None:
        key = entry.key.text
        if key in self.fields:
            return
        if key in self.planned:
            raise not_yet(f'"{key}" of {spot.owner} {self.planned[key]}', entry.key)
        if key in self.elsewhere:
            raise Fault(entry.key.place, f'"{key}" of {spot.owner} {self.elsewhere[key]}', "remove it", "wrong-kind")
        known = [*self.fields, *self.beside]
        remedy = self.inside.get(key) or _with_space(key, known) or did_you_mean(key, known, self.planned)
        raise Fault(entry.key.place, f'{spot} has no key "{key[:80]}"', remedy, "unknown-key")

    def _check_complete(self, mapping: Mapping, spot: Spot) -> None:
        missing = [key for key, known in self.fields.items() if known.required and mapping.get(key) is None]
        if missing:
            keys = " and no ".join(f'"{key}"' for key in missing)
            remedy = "add one" if len(missing) == 1 else "add them"
            raise Fault(mapping.place, f"{spot} has no {keys}", remedy, "missing-key")


def _with_space(key: str, known: Iterable[str]) -> str:
    """Return the remedy for `{name:clean}`, which YAML takes for one long key; "" for any other key."""
    name, colon, value = key.partition(":")
    return f'write "{name}: {value[:80]}", with a space after the colon' if colon and name in known else ""
