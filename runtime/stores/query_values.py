"""Values of a query as MongoDB sees them: which ones a dotted path reaches, when two are equal, which one is larger.

Pure. Documents come from JSON, so a value is exactly one of dict, list, str, int, float, bool, None, or `MISSING`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final


class Missing:
    """The value of a path that leads nowhere; equal to null in a query."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()

_INT32 = range(-(2**31), 2**31)


def reach(node: Any, parts: Sequence[str], start: int, *, expand: bool) -> Iterator[Any]:
    """Yield every value that the path `parts[start:]` reaches in the dict `node`, MISSING where a key is absent.

    An array on the way stands for each of the objects in it; a numeric part also for the item at that index. With
    `expand` an array at the end yields its items before itself. Scalars in an array on the way yield nothing.
    """
    value = node.get(parts[start], MISSING)
    rest = start + 1
    if rest == len(parts):
        if expand and type(value) is list:
            yield from value
        yield value
    elif type(value) is dict:
        yield from reach(value, parts, rest, expand=expand)
    elif type(value) is list:
        yield from _reach_in_array(value, parts, rest, expand=expand)
    else:
        yield MISSING


def _reach_in_array(items: list[Any], parts: Sequence[str], start: int, *, expand: bool) -> Iterator[Any]:
    for item in items:
        if type(item) is dict:
            yield from reach(item, parts, start, expand=expand)
    index = _index(parts[start], items)
    if index is None:
        return
    item = items[index]
    if start + 1 == len(parts):
        yield item  # a path that ends in an index means this item as it is, even if it is an array
    elif type(item) is dict or type(item) is list:
        yield from reach(as_object(item), parts, start + 1, expand=expand)


def as_object(value: Any) -> dict[str, Any] | None:
    """Return a dict as it is and an array as the object of its indexes (BSON's form of it), None for a scalar."""
    if type(value) is list:
        return {str(index): item for index, item in enumerate(value)}
    return value if type(value) is dict else None


def _index(part: str, items: list[Any]) -> int | None:
    """Return the index that a path part names, None when it is no index or beyond the end. "00" is no index."""
    if not (part.isascii() and part.isdigit()) or len(part) > len(str(len(items))):
        return None
    index = int(part)
    return index if index < len(items) and str(index) == part else None


def equal(left: Any, right: Any) -> bool:
    """Say whether two values are equal: numbers by value, booleans are no numbers, objects with their key order."""
    if is_number(left):
        return is_number(right) and bool(left == right)
    if type(left) is not type(right):
        return False
    if type(left) is list:
        return len(left) == len(right) and all(map(equal, left, right))
    if type(left) is dict:
        return list(left) == list(right) and all(map(equal, left.values(), right.values()))
    return bool(left == right)


def is_number(value: Any) -> bool:
    """Say whether the value is a number; a boolean is none."""
    return type(value) is int or type(value) is float


def comparable(left: Any, right: Any) -> bool:
    """Say whether an order exists between two scalars: both numbers, both text, or both booleans."""
    return (is_number(left) and is_number(right)) or (type(left) is type(right) and type(left) in (str, bool))


def type_names(value: Any) -> frozenset[str]:
    """Return MongoDB's names for the type of a value; none for a missing one. An integer is as wide as it has to be."""
    if type(value) is int:
        return frozenset({"number", "int" if value in _INT32 else "long"})
    return _TYPE_NAMES.get(type(value), frozenset())


_TYPE_NAMES: dict[type, frozenset[str]] = {
    float: frozenset({"number", "double"}),
    str: frozenset({"string"}),
    dict: frozenset({"object"}),
    list: frozenset({"array"}),
    bool: frozenset({"bool"}),
    type(None): frozenset({"null"}),
}
