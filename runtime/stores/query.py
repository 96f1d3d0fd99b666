"""MongoDB's query language, as far as the embedded store answers it: a query becomes a predicate over documents.

Pure. The supported subset stands in `docs/stores.md`; everything else is a QueryError that names the operator and its
place. Where MongoDB's manual is silent, `matcher/path.cpp` and `matcher/expression_leaf.cpp` of its source decide.

    compile_query({"age": {"$gte": 18}, "tags": "new"})({"age": 20, "tags": ["new", "eu"]})    # True
    compile_query({"place": {"$near": [1, 2]}})    # QueryError: operator '$near' at 'place' is not supported …
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.errors import QueryError
from runtime.stores.base import Document
from runtime.stores.json_values import plain
from runtime.stores.query_values import MISSING, as_object, comparable, equal, is_number, reach, type_names

Predicate = Callable[[Document], bool]
Test = Callable[[Any], bool]

_REGEX_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
# Numbers that `$type` takes in place of names (BSON's own).
_TYPE_NUMBERS = {1: "double", 2: "string", 3: "object", 4: "array", 8: "bool", 10: "null", 16: "int", 18: "long"}
_TYPE_ALIASES = frozenset({*_TYPE_NUMBERS.values(), "number"})


def compile_query(query: Mapping[str, Any]) -> Predicate:
    """Return the predicate of a query; it never raises. Raises QueryError for what this subset does not hold."""
    return _all_of(_clauses(plain(query, QueryError), ""))


# --- the form of a query: clauses, paths and conditions ---


class Condition(Protocol):
    """What a query asks of one path, or, inside `$elemMatch`, of one item of an array."""

    def on_path(self, document: Document, parts: Sequence[str]) -> bool: ...

    def on_value(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Some:
    """Holds when the test holds for any value that the path reaches; `expand`: also for items of an array there."""

    test: Test
    expand: bool = True

    def on_path(self, document: Document, parts: Sequence[str]) -> bool:
        return any(map(self.test, reach(document, parts, 0, expand=self.expand)))

    def on_value(self, value: Any) -> bool:
        return self.test(value)


@dataclass(frozen=True, slots=True)
class Every:
    """Holds when all conditions do, each for a value of its own."""

    conditions: Sequence[Condition]

    def on_path(self, document: Document, parts: Sequence[str]) -> bool:
        return all(condition.on_path(document, parts) for condition in self.conditions)

    def on_value(self, value: Any) -> bool:
        return all(condition.on_value(value) for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Not:
    """Holds when the condition does not: for no value that the path reaches."""

    condition: Condition

    def on_path(self, document: Document, parts: Sequence[str]) -> bool:
        return not self.condition.on_path(document, parts)

    def on_value(self, value: Any) -> bool:
        return not self.condition.on_value(value)


def _clauses(query: dict[str, Any], at: str) -> list[Predicate]:
    return [_clause(key, value, _join(at, key)) for key, value in query.items()]


def _clause(key: str, value: Any, at: str) -> Predicate:
    if not key.startswith("$"):
        condition, parts = _condition(value, at), key.split(".")
        return lambda document: condition.on_path(document, parts)
    if key not in _LOGICAL:
        raise _unsupported(key, at, _LOGICAL)
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise QueryError(f"'{at}' takes a list of queries with at least one item, got {value!r}")
    branches = [_all_of(_clauses(branch, f"{at}.{index}")) for index, branch in enumerate(value)]
    return _LOGICAL[key](branches)


def _condition(value: Any, at: str) -> Condition:
    """Return the condition behind a path: operators, or a literal that has to be equal."""
    if isinstance(value, dict) and any(key.startswith("$") for key in value):
        return _operators(value, at)
    return Some(_equal_to(_literal(value, at)))


def _operators(value: dict[str, Any], at: str) -> Condition:
    conditions: list[Condition] = []
    for name, argument in value.items():
        if name == "$options":
            continue  # read together with $regex
        if name not in _OPERATORS:
            raise _unsupported(name, at, _OPERATORS)
        if name == "$regex":
            argument = _pattern(argument, value.get("$options", ""), at)
        conditions.append(_OPERATORS[name](argument, at))
    if "$options" in value and "$regex" not in value:
        raise QueryError(f"operator '$options' at '{at}' needs a '$regex' beside it")
    return conditions[0] if len(conditions) == 1 else Every(conditions)


def _all_of(predicates: Sequence[Predicate]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return lambda document: all(predicate(document) for predicate in predicates)


def _any_of(predicates: Sequence[Predicate]) -> Predicate:
    return lambda document: any(predicate(document) for predicate in predicates)


def _none_of(predicates: Sequence[Predicate]) -> Predicate:
    return lambda document: not any(predicate(document) for predicate in predicates)


_LOGICAL: dict[str, Callable[[Sequence[Predicate]], Predicate]] = {"$and": _all_of, "$or": _any_of, "$nor": _none_of}


# --- operators: each takes its argument and its place, and returns a condition ---


def _equal_to(wanted: Any) -> Test:
    if wanted is None:
        return lambda value: value is None or value is MISSING
    return lambda value: equal(value, wanted)


def _eq(argument: Any, at: str) -> Condition:
    return Some(_equal_to(_literal(argument, at)))


def _ordered(name: str, holds: Callable[[Any, Any], bool], *, or_equal: bool) -> Callable[[Any, str], Condition]:
    """Return a comparison. It holds only between values of one bracket: text is never larger than a number."""

    def build(limit: Any, at: str) -> Condition:
        if limit is None:
            return Some(_equal_to(None) if or_equal else _never)
        if isinstance(limit, (dict, list)):
            raise QueryError(
                f"operator '{name}' at '{at}' compares with text, a number, a boolean or None, got {limit!r}"
            )
        return Some(lambda value: comparable(value, limit) and holds(value, limit))

    return build


def _in(argument: Any, at: str) -> Condition:
    items = [_literal(item, at) for item in _list(argument, "$in", at)]
    texts = frozenset(item for item in items if isinstance(item, str))
    tests = [_equal_to(item) for item in items if not isinstance(item, str)]
    return Some(lambda value: value in texts if type(value) is str else any(test(value) for test in tests))


def _exists(argument: Any, at: str) -> Condition:
    if not isinstance(argument, (bool, int)):
        raise QueryError(f"operator '$exists' at '{at}' takes True or False, got {argument!r}")
    exists = Some(lambda value: value is not MISSING)
    return exists if argument else Not(exists)


def _not(argument: Any, at: str) -> Condition:
    if not isinstance(argument, dict) or not any(key.startswith("$") for key in argument):
        raise QueryError(f"operator '$not' at '{at}' takes operators, got {argument!r}; for a plain value use '$ne'")
    return Not(_operators(argument, at))


def _regex(argument: re.Pattern[str], at: str) -> Condition:
    return Some(lambda value: type(value) is str and argument.search(value) is not None)


def _pattern(pattern: Any, options: Any, at: str) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not isinstance(options, str):
        raise QueryError(f"operator '$regex' at '{at}' takes a pattern and '$options' as text")
    if unknown := set(options) - _REGEX_FLAGS.keys():
        raise QueryError(
            f"operator '$options' at '{at}' takes the letters i, m, s and x, got {''.join(sorted(unknown))!r}"
        )
    flags = re.NOFLAG
    for letter in options:
        flags |= _REGEX_FLAGS[letter]
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise QueryError(f"operator '$regex' at '{at}' has a broken pattern {pattern!r}: {error}") from error


def _size(argument: Any, at: str) -> Condition:
    if type(argument) is not int or argument < 0:
        raise QueryError(f"operator '$size' at '{at}' takes an integer from 0, got {argument!r}")
    return Some(lambda value: type(value) is list and len(value) == argument, expand=False)


def _all(argument: Any, at: str) -> Condition:
    items = _list(argument, "$all", at)
    if not items:
        return Some(_never)
    return Every([_all_item(item, at) for item in items])


def _all_item(item: Any, at: str) -> Condition:
    if isinstance(item, dict) and list(item) == ["$elemMatch"]:
        return _elem_match(item["$elemMatch"], at)
    return _eq(item, at)


def _elem_match(argument: Any, at: str) -> Condition:
    """One item has to fulfil everything: as an object (`{"b": 1}`), or as a value (`{"$gt": 1, "$lt": 5}`)."""
    if not isinstance(argument, dict):
        raise QueryError(f"operator '$elemMatch' at '{at}' takes a query or operators, got {argument!r}")
    if any(key.startswith("$") and key not in _LOGICAL for key in argument):
        condition = _operators(argument, at)
        return _some_item(condition.on_value)
    predicate = _all_of(_clauses(argument, at))
    return _some_item(lambda item: (fields := as_object(item)) is not None and predicate(fields))


def _some_item(test: Test) -> Condition:
    return Some(lambda value: type(value) is list and any(map(test, value)), expand=False)


def _type(argument: Any, at: str) -> Condition:
    wanted = frozenset(map(_type_name, argument if isinstance(argument, list) else [argument]))
    if not wanted or None in wanted:
        known = ", ".join(sorted(_TYPE_ALIASES))
        raise QueryError(f"operator '$type' at '{at}' takes one or several of {known}, got {argument!r}")
    return Some(lambda value: not wanted.isdisjoint(type_names(value)))


def _type_name(item: Any) -> str | None:
    if type(item) is int:
        return _TYPE_NUMBERS.get(item)
    return item if isinstance(item, str) and item in _TYPE_ALIASES else None


def _mod(argument: Any, at: str) -> Condition:
    if not isinstance(argument, list) or len(argument) != 2 or not all(map(is_number, argument)):
        raise QueryError(f"operator '$mod' at '{at}' takes [divisor, remainder], got {argument!r}")
    divisor, remainder = map(int, argument)
    if divisor == 0:
        raise QueryError(f"operator '$mod' at '{at}' cannot divide by 0")
    return Some(lambda value: is_number(value) and _remainder(int(value), divisor) == remainder)


def _remainder(value: int, divisor: int) -> int:
    """Return the remainder with the sign of `value`, as C and MongoDB have it (Python's has the divisor's)."""
    size = abs(value) % abs(divisor)
    return -size if value < 0 else size


_OPERATORS: dict[str, Callable[[Any, str], Condition]] = {
    "$eq": _eq,
    "$ne": lambda argument, at: Not(_eq(argument, at)),
    "$gt": _ordered("$gt", lambda value, limit: bool(value > limit), or_equal=False),
    "$gte": _ordered("$gte", lambda value, limit: bool(value >= limit), or_equal=True),
    "$lt": _ordered("$lt", lambda value, limit: bool(value < limit), or_equal=False),
    "$lte": _ordered("$lte", lambda value, limit: bool(value <= limit), or_equal=True),
    "$in": _in,
    "$nin": lambda argument, at: Not(_in(argument, at)),
    "$exists": _exists,
    "$not": _not,
    "$regex": _regex,
    "$size": _size,
    "$all": _all,
    "$elemMatch": _elem_match,
    "$type": _type,
    "$mod": _mod,
}


# --- arguments and refusals ---


def _literal(value: Any, at: str) -> Any:
    """Return a value to compare with. Operators inside one would be compared as text, which nobody means."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                raise QueryError(f"'{key}' at '{at}' stands inside a value; write the full path: 'a.b': {{'{key}': …}}")
            _literal(item, _join(at, key))
    elif isinstance(value, list):
        for item in value:
            _literal(item, at)
    return value


def _list(argument: Any, name: str, at: str) -> list[Any]:
    if not isinstance(argument, list):
        raise QueryError(f"operator '{name}' at '{at}' takes a list, got {argument!r}")
    return argument


def _never(value: Any) -> bool:
    return False


def _unsupported(name: str, at: str, supported: Mapping[str, Any]) -> QueryError:
    return QueryError(
        f"operator '{name}' at '{at}' is not supported by this store; supported here: {', '.join(supported)}"
    )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
