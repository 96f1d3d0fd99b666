"""Whether a JSON value fits a JSON Schema: every fault, by the path of its field. Pure.

Made for the schemas that pydantic writes for handlers' types. `format`, and keywords that are not in `_KEYWORDS`, are
left to the handler. A schema is compiled once; a check of a small object takes some microseconds.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runtime.spec.edges import WORDS

DEFINITIONS = "#/$defs/"


class Fault(NamedTuple):
    """One thing that does not fit. field: `orders.2.price`, "" for the value itself."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field or 'the value'} {self.problem}"


# Between what a value is and what it should be.
_GIVE = "; give "

# The way to a value: keys and positions.
Way = tuple[str | int, ...]
Check = Callable[[Any, Way], Iterator[Fault]]


class SchemaCheck:
    """Checks values against one schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions = schema.get("$defs", {})
        # By name; filled when a definition is first met, since types may hold themselves.
        self._compiled: dict[str, Check] = {}
        self._check = self._compile(schema)

    def faults(self, value: Any) -> list[Fault]:
        """Return every fault of a value that `orjson.loads` gave; none if it fits."""
        return list(self._check(value, ()))

    def _compile(self, schema: Any) -> Check:
        if schema is False:
            return lambda value, way: iter((_fault(way, "is not allowed"),))
        if not isinstance(schema, Mapping):
            return _anything
        checks = [make(self, schema[keyword], schema) for keyword, make in _KEYWORDS.items() if keyword in schema]
        if "$ref" in schema:
            checks.append(self._reference(schema["$ref"]))
        return checks[0] if len(checks) == 1 else _all(checks)

    def _reference(self, reference: str) -> Check:
        name = reference.removeprefix(DEFINITIONS)

        def check(value: Any, way: Way) -> Iterator[Fault]:
            if name not in self._compiled:
                self._compiled[name] = self._compile(self._definitions.get(name, True))
            return self._compiled[name](value, way)

        return check

    # --- one keyword each; schema: the one that it stands in ---

    def _type(self, kinds: str | Sequence[str], schema: Mapping[str, Any]) -> Check:
        wanted = [kinds] if isinstance(kinds, str) else list(kinds)
        tests = [_KINDS[kind] for kind in wanted if kind in _KINDS]
        words = " or ".join(WORDS[kind] for kind in wanted if kind in WORDS)

        def check(value: Any, way: Way) -> Iterator[Fault]:
            if not any(test(value) for test in tests):
                yield _fault(way, f"is {_word(value)}{_GIVE}{words}")

        return check

    def _enum(self, values: Sequence[Any], schema: Mapping[str, Any]) -> Check:
        shown = ", ".join(map(repr, values))

        def check(value: Any, way: Way) -> Iterator[Fault]:
            if not any(_equal(value, each) for each in values):
                yield _fault(way, f"is none of {shown}")

        return check

    def _const(self, only: Any, schema: Mapping[str, Any]) -> Check:
        return self._enum((only,), schema)

    def _properties(self, properties: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
        checks = {name: self._compile(inner) for name, inner in properties.items()}

        def check(value: Any, way: Way) -> Iterator[Fault]:
            if isinstance(value, dict):
                for name, inner in checks.items():
                    if name in value:
                        yield from inner(value[name], (*way, name))

        return check

    def _required(self, names: Sequence[str], schema: Mapping[str, Any]) -> Check:
        def check(value: Any, way: Way) -> Iterator[Fault]:
            if isinstance(value, dict):
                yield from (_fault((*way, name), "is missing") for name in names if name not in value)

        return check

    def _additional(self, allowed: Any, schema: Mapping[str, Any]) -> Check:
        known = set(schema.get("properties", {}))
        patterns = [re.compile(pattern) for pattern in schema.get("patternProperties", {})]
        inner = self._compile(allowed) if isinstance(allowed, Mapping) else None

        def check(value: Any, way: Way) -> Iterator[Fault]:
            if allowed is True or not isinstance(value, dict):
                return
            for name in value.keys() - known:
                if any(pattern.search(name) for pattern in patterns):
                    continue
                if inner is None:
                    yield _fault((*way, name), f"is unknown; known: {', '.join(sorted(known)) or 'no field'}")
                else:
                    yield from inner(value[name], (*way, name))

        return check

    def _pattern_properties(self, patterns: Mapping[str, Any], schema: Mapping[str, Any]) -> Check:
        checks = [(re.compile(pattern), self._compile(inner)) for pattern, inner in patterns.items()]

        def check(value: Any, way: Way) -> Iterator[Fault]:
            for name, item in value.items() if isinstance(value, dict) else ():
                for pattern, inner in checks:
                    if pattern.search(name):
                        yield from inner(item, (*way, name))

        return check

    def _property_names(self, names: Any, schema: Mapping[str, Any]) -> Check:
        inner = self._compile(names)

        def check(value: Any, way: Way) -> Iterator[Fault]:
            for name in value if isinstance(value, dict) else ():
                yield from inner(name, (*way, name))

        return check

    def _items(self, items: Any, schema: Mapping[str, Any]) -> Check:
        inner, first = self._compile(items), len(schema.get("prefixItems", ()))

        def check(value: Any, way: Way) -> Iterator[Fault]:
            for number, item in enumerate(value[first:] if isinstance(value, list) else (), start=first):
                yield from inner(item, (*way, number))

        return check

    def _prefix_items(self, items: Sequence[Any], schema: Mapping[str, Any]) -> Check:
        checks = [self._compile(item) for item in items]

        def check(value: Any, way: Way) -> Iterator[Fault]:
            for number, (inner, item) in enumerate(zip(checks, value if isinstance(value, list) else (), strict=False)):
                yield from inner(item, (*way, number))

        return check

    def _unique(self, wanted: bool, schema: Mapping[str, Any]) -> Check:
        def check(value: Any, way: Way) -> Iterator[Fault]:
            if wanted and isinstance(value, list) and any(_equal(a, b) for n, a in enumerate(value) for b in value[:n]):
                yield _fault(way, "holds a value twice")

        return check

    def _pattern(self, pattern: str, schema: Mapping[str, Any]) -> Check:
        compiled = re.compile(pattern)
        return _texts(lambda text: compiled.search(text) is not None, f"does not match {pattern}")

    def _all_of(self, schemas: Sequence[Any], schema: Mapping[str, Any]) -> Check:
        return _all([self._compile(each) for each in schemas])

    def _any_of(self, schemas: Sequence[Any], schema: Mapping[str, Any]) -> Check:
        checks = [self._compile(each) for each in schemas]

        def check(value: Any, way: Way) -> Iterator[Fault]:
            found = [list(each(value, way)) for each in checks]
            if not all(found):
                return
            # Faults further inside tell of the member that was meant; those here only say that it is another type.
            meant = [faults for faults in found if any(fault.field != _path(way) for fault in faults)]
            if len(meant) == 1:
                yield from meant[0]
            else:
                yield _fault(way, _joined([fault.problem for faults in found for fault in faults]))

        return check

    def _one_of(self, schemas: Sequence[Any], schema: Mapping[str, Any]) -> Check:
        any_of, checks = self._any_of(schemas, schema), [self._compile(each) for each in schemas]

        def check(value: Any, way: Way) -> Iterator[Fault]:
            fitting = sum(next(each(value, way), None) is None for each in checks)
            if fitting > 1:
                yield _fault(way, f"fits {fitting} of its forms; only one may fit")
            elif not fitting:
                yield from any_of(value, way)

        return check


def _limit(test: Callable[[Any, Any], bool], measure: Callable[[Any], Any], problem: str) -> Callable[..., Check]:
    """Return the maker of a check that compares a measure of a value with a bound; None is a value without it."""

    def make(self: SchemaCheck, bound: Any, schema: Mapping[str, Any]) -> Check:
        def check(value: Any, way: Way) -> Iterator[Fault]:
            size = measure(value)
            if size is not None and not test(size, bound):
                yield _fault(way, problem.format(bound))

        return check

    return make


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _length_of(kind: type[str] | type[list[Any]] | type[dict[str, Any]]) -> Callable[[Any], int | None]:
    return lambda value: len(value) if isinstance(value, kind) else None


def _is_multiple(number: float, step: float) -> bool:
    quotient = number / step
    return math.isfinite(quotient) and math.isclose(quotient, round(quotient), rel_tol=1e-12)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _number(value) is not None and float(value).is_integer(),
    "number": lambda value: _number(value) is not None,
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}

# Keyword -> what makes its check, from (the whole, the keyword's value, the schema that it stands in).
_KEYWORDS: dict[str, Callable[[SchemaCheck, Any, Mapping[str, Any]], Check]] = {
    "type": SchemaCheck._type,
    "enum": SchemaCheck._enum,
    "const": SchemaCheck._const,
    "required": SchemaCheck._required,
    "properties": SchemaCheck._properties,
    "patternProperties": SchemaCheck._pattern_properties,
    "additionalProperties": SchemaCheck._additional,
    "propertyNames": SchemaCheck._property_names,
    "prefixItems": SchemaCheck._prefix_items,
    "items": SchemaCheck._items,
    "uniqueItems": SchemaCheck._unique,
    "pattern": SchemaCheck._pattern,
    "allOf": SchemaCheck._all_of,
    "anyOf": SchemaCheck._any_of,
    "oneOf": SchemaCheck._one_of,
    "minimum": _limit(lambda n, bound: n >= bound, _number, "is below {}"),
    "maximum": _limit(lambda n, bound: n <= bound, _number, "is above {}"),
    "exclusiveMinimum": _limit(lambda n, bound: n > bound, _number, "is not above {}"),
    "exclusiveMaximum": _limit(lambda n, bound: n < bound, _number, "is not below {}"),
    "multipleOf": _limit(_is_multiple, _number, "is no multiple of {}"),
    "minLength": _limit(lambda n, bound: n >= bound, _length_of(str), "is shorter than {} characters"),
    "maxLength": _limit(lambda n, bound: n <= bound, _length_of(str), "is longer than {} characters"),
    "minItems": _limit(lambda n, bound: n >= bound, _length_of(list), "has fewer than {} items"),
    "maxItems": _limit(lambda n, bound: n <= bound, _length_of(list), "has more than {} items"),
    "minProperties": _limit(lambda n, bound: n >= bound, _length_of(dict), "has fewer than {} fields"),
    "maxProperties": _limit(lambda n, bound: n <= bound, _length_of(dict), "has more than {} fields"),
}


def _anything(value: Any, way: Way) -> Iterator[Fault]:
    return iter(())


def _all(checks: Sequence[Check]) -> Check:
    def check(value: Any, way: Way) -> Iterator[Fault]:
        for each in checks:
            yield from each(value, way)

    return check


def _texts(test: Callable[[str], bool], problem: str) -> Check:
    def check(value: Any, way: Way) -> Iterator[Fault]:
        if isinstance(value, str) and not test(value):
            yield _fault(way, problem)

    return check


def _joined(problems: Sequence[str]) -> str:
    """Return why none of several forms fits: `is nothing; give text or a whole number`."""
    unique = list(dict.fromkeys(problems))
    starts = {problem.partition(_GIVE)[0] for problem in unique}
    if len(starts) > 1 or _GIVE not in unique[0]:
        return ", and ".join(unique)
    return f"{starts.pop()}{_GIVE}{' or '.join(problem.partition(_GIVE)[2] for problem in unique)}"


def _equal(one: Any, other: Any) -> bool:
    """Compare as JSON does, for which true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _fault(way: Way, problem: str) -> Fault:
    return Fault(_path(way), problem)


def _path(way: Way) -> str:
    return ".".join(map(str, way))


def _word(value: Any) -> str:
    """Say what a value is; no kind of JSON takes bytes."""
    kind = next((kind for kind in ("boolean", "integer", "number", *_KINDS) if _KINDS[kind](value)), "")
    return WORDS.get(kind, "bytes")
