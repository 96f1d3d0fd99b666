"""Whether a node can read what another one sends, by the types that their handlers declare. Pure.

JSON kinds are compared by their JSON Schemas: fields that the reader requires, their types, unions, enums and
forbidden extra fields. Patterns, formats and bounds are not compared. A type that says nothing fits everything, but
the edge then counts as unchecked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from runtime.spec.frozen import Frozen

JsonSchema = dict[str, Any]

WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


# Kinds of values with a payload of their own, see `payload.py`.
NATIVE_KINDS = ("array", "table", "file")
# What is said of the kinds that are no JSON, and of those that say nothing.
_KINDS = {
    "unknown": "unknown",
    "raw": "any message",
    "bytes": "bytes",
    "json": "JSON",
    "array": "an array",
    "table": "a table",
    "file": "a file",
}


class EdgeType(Frozen):
    """What one side of an edge declares.

    kind: `unknown` has no annotation, or one that says nothing; `raw` is the unpacked `Any`, which takes everything.
    message: full name of a protobuf message. json_schema: of the `json` kind. dtype: the one of an array (`float32`),
    "" where several are taken or sent.
    """

    kind: Literal["unknown", "raw", "bytes", "protobuf", "json", "array", "table", "file"]
    message: str = ""
    json_schema: JsonSchema = Field(default_factory=dict)
    dtype: str = ""

    def __str__(self) -> str:
        if self.kind == "protobuf":
            return f"the protobuf message {self.message}"
        return _KINDS[self.kind] + (f" of {self.dtype}" if self.dtype else "")

    def described(self) -> str:
        """Return its name for people: that of a model, where there is one."""
        if self.kind != "json":
            return str(self)
        return str(_resolved(self.json_schema, self.json_schema).get("title") or _shown(self.json_schema))


def edge_schema(edge: EdgeType) -> JsonSchema:
    """Return the schema of one side of an edge. What is no JSON is named by its `format`; {} is anything."""
    if edge.kind == "bytes":
        return {"type": "string", "format": "binary"}
    if edge.kind == "protobuf":
        return {"title": edge.message, "description": "A protobuf message", "format": "protobuf"}
    if edge.kind in NATIVE_KINDS:
        dtype = {"dtype": edge.dtype} if edge.dtype else {}
        return {"description": str(edge).capitalize(), "format": edge.kind, **dtype}
    return edge.json_schema


def part_type(whole: EdgeType, name: str) -> EdgeType:
    """Return what a join's handler takes as one of its parts: the field of that name, unknown where there is none."""
    field_schema = whole.json_schema.get("properties", {}).get(name)
    if whole.kind != "json" or not isinstance(field_schema, dict):
        return EdgeType(kind="unknown")
    if field_schema.get("format") == "binary":
        return EdgeType(kind="bytes")
    return EdgeType(kind="json", json_schema={**field_schema, "$defs": whole.json_schema.get("$defs", {})})


def item_type(whole: EdgeType) -> EdgeType | None:
    """Return the type of the items of a list, None for anything else, and where nothing is known of them."""
    items = whole.json_schema.get("items")
    if whole.kind != "json" or not isinstance(items, dict):
        return None
    return EdgeType(kind="json", json_schema={**items, "$defs": whole.json_schema.get("$defs", {})})


class HandlerTypes(Frozen):
    """What one handler module declares, as the probe of `krt check` finds it.

    line: of the handler. inputs: by the node that is read, "" for all others. output: None if it returns nothing.
    channels: None if the module declares none.
    """

    line: int = 1
    inputs: dict[str, EdgeType]
    output: EdgeType | None = None
    channels: dict[str, EdgeType] | None = None

    def input_from(self, node: str) -> EdgeType:
        """Return what is declared for messages of a node."""
        return self.inputs.get(node) or self.inputs.get("", EdgeType(kind="unknown"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one comparison. mismatch: "" where nothing speaks against the edge. checked: all was compared."""

    mismatch: str = ""
    checked: bool = True


def compare(sent: EdgeType, read: EdgeType, sent_at: str = "", read_at: str = "") -> Verdict:
    """Compare both sides of an edge; `sent_at` and `read_at` (`clean.py:12`) stand in the text of a mismatch."""
    if read.kind == "raw":
        return Verdict()
    if "unknown" in (sent.kind, read.kind) or sent.kind == "raw":
        return Verdict(checked=False)
    if sent.kind == "bytes" and read.kind == "file":
        return Verdict()
    if sent.kind == read.kind == "array" and not (sent.dtype and read.dtype):
        return Verdict(checked=not read.dtype)
    if (sent.kind, sent.message, sent.dtype) != (read.kind, read.message, read.dtype):
        return Verdict(f"it is {sent}{_at(sent_at)} and {read} here{_at(read_at)}")
    if sent.kind != "json":
        return Verdict()
    comparison = _Comparison(sent.json_schema, read.json_schema, _at(sent_at), _at(read_at))
    mismatch = comparison.mismatch(sent.json_schema, read.json_schema, "")
    return Verdict(mismatch, checked=not comparison.unknown)


def _at(place: str) -> str:
    return f" ({place})" if place else ""


@dataclass(slots=True)
class _Comparison:
    """Compares two schemas; `unknown` turns true where one of them says nothing about what the other asks."""

    sent_root: JsonSchema
    read_root: JsonSchema
    sent_at: str
    read_at: str
    unknown: bool = False
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def mismatch(self, sent: Any, read: Any, path: str) -> str:
        """Return why `sent` does not fit `read`, "" if it does; `path` names the field."""
        if self._is_repeated(sent, read):
            return ""
        sent, read = _resolved(sent, self.sent_root), _resolved(read, self.read_root)
        if _says_nothing(sent) or _says_nothing(read):
            self.unknown = True
            return ""
        if (members := _members(sent)) is not None:
            return next(filter(None, (self.mismatch(member, read, path) for member in members)), "")
        if (members := _members(read)) is not None:
            return self._mismatch_with_all(sent, read, members, path)
        return self._mismatch_of_types(sent, read, path) or self._mismatch_of_contents(sent, read, path)

    def _is_repeated(self, sent: Any, read: Any) -> bool:
        """Say whether two recursive types meet again: their first meeting decides."""
        if not (isinstance(sent, dict) and isinstance(read, dict) and "$ref" in sent and "$ref" in read):
            return False
        pair = (sent["$ref"], read["$ref"])
        repeated = pair in self._seen
        self._seen.add(pair)
        return repeated

    def _mismatch_with_all(self, sent: JsonSchema, read: JsonSchema, members: list[Any], path: str) -> str:
        if not all(self.mismatch(sent, member, path) for member in members):
            return ""
        return self._differ(path, _shown(sent), _shown(read))

    def _mismatch_of_types(self, sent: JsonSchema, read: JsonSchema, path: str) -> str:
        allowed = _values(read)
        if allowed is not None:
            values = _values(sent)
            if values is not None and all(value in allowed for value in values):
                return ""
            return self._differ(path, _shown(sent), _shown(read))
        taken = set(_types(read))
        if "number" in taken:
            taken.add("integer")
        if not taken or set(_types(sent)) <= taken:
            return ""
        return self._differ(path, _shown(sent), _shown(read))

    def _mismatch_of_contents(self, sent: JsonSchema, read: JsonSchema, path: str) -> str:
        if "array" in _types(sent) and "items" in read:
            return self.mismatch(sent.get("items", {}), read["items"], f"{path}[]")
        if "object" in _types(sent):
            return next(filter(None, self._mismatches_of_fields(sent, read, path)), "")
        return ""

    def _mismatches_of_fields(self, sent: JsonSchema, read: JsonSchema, path: str) -> Iterator[str]:
        fields, taken = sent.get("properties", {}), read.get("properties", {})
        for key in read.get("required", []):
            yield self._mismatch_of_required(sent, key, path)
        for key, inner in fields.items():
            if key in taken:
                yield self.mismatch(inner, taken[key], _inner(path, key))
            elif read.get("additionalProperties") is False:
                yield f'"{_inner(path, key)}" is sent{self.sent_at} and refused here{self.read_at}'
            elif isinstance(read.get("additionalProperties"), dict):
                yield self.mismatch(inner, read["additionalProperties"], _inner(path, key))
        if isinstance(sent.get("additionalProperties"), dict) and isinstance(read.get("additionalProperties"), dict):
            yield self.mismatch(sent["additionalProperties"], read["additionalProperties"], _inner(path, "*"))

    def _mismatch_of_required(self, sent: JsonSchema, key: str, path: str) -> str:
        if key in sent.get("required", []):
            return ""
        where = _inner(path, key)
        if key in sent.get("properties", {}):
            return f'"{where}" may be left out{self.sent_at} and is required here{self.read_at}'
        if sent.get("additionalProperties") or "properties" not in sent:
            self.unknown = True
            return ""
        return f'"{where}" is not sent{self.sent_at} and is required here{self.read_at}'

    def _differ(self, path: str, sent: str, read: str) -> str:
        name = f'"{path}"' if path else "it"
        return f"{name} is {sent}{self.sent_at} and {read} here{self.read_at}"


def _resolved(schema: Any, root: JsonSchema) -> Any:
    """Return the schema behind a `$ref` into the root's own definitions."""
    seen: set[str] = set()
    while isinstance(schema, dict) and (ref := schema.get("$ref")) and ref not in seen:
        seen.add(ref)
        schema = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})
    return schema


def _says_nothing(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return True
    return not any(key in schema for key in ("type", "enum", "const", "anyOf", "oneOf"))


def _members(schema: JsonSchema) -> list[Any] | None:
    members: list[Any] | None = schema.get("anyOf") or schema.get("oneOf")
    return members


def _values(schema: JsonSchema) -> list[Any] | None:
    """Return the values that an enum allows, None where it is no enum."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _types(schema: JsonSchema) -> list[str]:
    types = schema.get("type", [])
    return list(types) if isinstance(types, list) else [types]


def _shown(schema: JsonSchema) -> str:
    if (values := _values(schema)) is not None:
        return " or ".join(repr(value) for value in values)
    if (members := _members(schema)) is not None:
        return " or ".join(_shown(member) for member in members if isinstance(member, dict))
    return " or ".join(WORDS.get(kind, kind) for kind in _types(schema)) or schema.get("$ref", "?").rpartition("/")[2]


def _inner(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
