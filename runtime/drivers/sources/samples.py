"""Made-up values of a format: what a `DummySource` sends. Pure: the same seed gives the same values."""

import math
import random
from collections.abc import Mapping
from typing import Any

import pydantic

# The words of JSON Schema that may stand for a whole schema: `{input: integer}`.
TYPES = ("integer", "number", "string", "boolean", "null", "array", "object")
# Keys of which one makes a mapping a JSON Schema and no format by field names.
SCHEMA_KEYS = {"type", "properties", "enum", "const", "anyOf", "oneOf", "$ref"}

# What numbers and lengths are drawn from when the schema sets no limit.
DEFAULT_RANGE = (0, 100)
TEXT_LENGTH = 8
ARRAY_LENGTH = 3

Schema = Mapping[str, Any]


def schema_of(form: Any) -> dict[str, Any]:
    """Return the JSON Schema of a format: a type, a model, a dataclass, a schema, or a mapping of names to formats.

    Raises ValueError for anything else.
    """
    if isinstance(form, str):
        if form not in TYPES:
            raise ValueError(f'"{form}" is no type; use one of {", ".join(TYPES)}')
        return {"type": form}
    if isinstance(form, Mapping):
        if _is_schema(form):
            return dict(form)
        fields = {name: schema_of(each) for name, each in form.items()}
        # References lead from the root, which is this object now.
        definitions = {name: each for field in fields.values() for name, each in field.pop("$defs", {}).items()}
        return {"type": "object", "properties": fields, "$defs": definitions}
    try:
        return pydantic.TypeAdapter(form).json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise ValueError(f"nothing can be made of the format {form!r}: {error.message}") from error


def _is_schema(form: Mapping[str, Any]) -> bool:
    """Say whether it is a schema; a field may be called `type` as well, but then its format is no word."""
    kind = form.get("type")
    return bool(SCHEMA_KEYS & form.keys()) and ("type" not in form or kind in TYPES or isinstance(kind, list))


def sample(schema: Schema, chance: random.Random) -> Any:
    """Return one value of a schema."""
    return _Sampler(schema, chance).value(schema)


class _Sampler:
    def __init__(self, root: Schema, chance: random.Random) -> None:
        self._root = root
        self._chance = chance

    def value(self, schema: Schema) -> Any:
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._chance.choice(schema["enum"])
        if "$ref" in schema:
            return self.value(self._resolved(schema["$ref"]))
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.value(self._chance.choice(schema[choice]))
        kind = schema.get("type", "object")
        return self._of_type(kind[0] if isinstance(kind, list) else kind, schema)

    def _of_type(self, kind: str, schema: Schema) -> Any:
        if kind == "object":
            return {name: self.value(each) for name, each in schema.get("properties", {}).items()}
        if kind == "array":
            length = schema.get("minItems", min(ARRAY_LENGTH, schema.get("maxItems", ARRAY_LENGTH)))
            return [self.value(schema.get("items", {"type": "integer"})) for _ in range(length)]
        if kind == "integer":
            low, high = _limits(schema)
            return self._chance.randint(math.ceil(low), math.floor(high))
        if kind == "number":
            return self._chance.uniform(*_limits(schema))
        if kind == "string":
            length = schema.get("minLength", min(TEXT_LENGTH, schema.get("maxLength", TEXT_LENGTH)))
            return "".join(self._chance.choices("abcdefghijklmnopqrstuvwxyz", k=length))
        return self._chance.random() < 0.5 if kind == "boolean" else None

    def _resolved(self, reference: str) -> Schema:
        found: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        result: Schema = found
        return result


def _limits(schema: Schema) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", None))
    high = schema.get("maximum", schema.get("exclusiveMaximum", None))
    if low is None:
        low = DEFAULT_RANGE[0] if high is None else min(DEFAULT_RANGE[0], high)
    if high is None:
        high = max(DEFAULT_RANGE[1], low)
    return low, high
