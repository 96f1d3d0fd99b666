"""MongoDB's matching once more, to check `runtime.stores.query` against: slow, interpreted, and of another build.

Values are compared through an order key as BSON has it, paths are followed with a list of open ends, and a query is
read anew for every document. Shares no code with the runtime, and takes valid queries only.
"""

import re
from fractions import Fraction
from typing import Any

ABSENT = object()

OrderKey = tuple[Any, ...]


def matches(document: dict[str, Any], query: dict[str, Any]) -> bool:
    for key, wanted in query.items():
        if key == "$and":
            holds = all(matches(document, part) for part in wanted)
        elif key == "$or":
            holds = any(matches(document, part) for part in wanted)
        elif key == "$nor":
            holds = not any(matches(document, part) for part in wanted)
        else:
            holds = field_matches(document, key, wanted)
        if not holds:
            return False
    return True


def field_matches(document: dict[str, Any], path: str, wanted: Any) -> bool:
    if not has_operators(wanted):
        return field_matches(document, path, {"$eq": wanted})
    for operator, argument in wanted.items():
        if operator == "$ne":
            holds = not field_matches(document, path, {"$eq": argument})
        elif operator == "$nin":
            holds = not field_matches(document, path, {"$in": argument})
        elif operator == "$not":
            holds = not field_matches(document, path, argument)
        elif operator == "$exists":
            holds = any(hit is not ABSENT for hit in hits(document, path, spread=True)) == bool(argument)
        elif operator == "$all":
            parts = [item if has_operators(item) else {"$eq": item} for item in argument]
            holds = bool(parts) and all(field_matches(document, path, part) for part in parts)
        else:
            spread = operator not in ("$size", "$elemMatch")
            holds = any(value_matches(hit, operator, argument, wanted) for hit in hits(document, path, spread=spread))
        if not holds:
            return False
    return True


def value_matches(value: Any, operator: str, argument: Any, beside: dict[str, Any]) -> bool:
    if operator == "$in":
        return any(order_key(value) == order_key(item) for item in argument)
    if operator == "$size":
        return isinstance(value, list) and len(value) == argument
    if operator == "$elemMatch":
        return isinstance(value, list) and any(item_matches(item, argument) for item in value)
    if operator == "$regex":
        flags = "".join(sorted(beside.get("$options", "")))
        return isinstance(value, str) and bool(re.search(f"(?{flags}:{argument})" if flags else argument, value))
    if operator == "$options":
        return True
    if operator == "$type":
        return bool({argument} & bson_types(value))
    if operator == "$mod":
        return bracket(value) == 2 and truncated_remainder(Fraction(value), argument[0]) == argument[1]
    left, right = order_key(value), order_key(argument)
    if left[0] != right[0]:
        return False
    return {
        "$eq": left == right,
        "$gt": left > right,
        "$gte": left >= right,
        "$lt": left < right,
        "$lte": left <= right,
    }[operator]


def item_matches(item: Any, wanted: dict[str, Any]) -> bool:
    """Match one item of an array; a query about a value is asked of a document that holds the item apart."""
    if has_operators(wanted) and not {"$and", "$or", "$nor"} & wanted.keys():
        return all(item_fulfils(item, operator, argument, wanted) for operator, argument in wanted.items())
    if isinstance(item, list):
        item = {str(index): inner for index, inner in enumerate(item)}
    return isinstance(item, dict) and matches(item, wanted)


def item_fulfils(item: Any, operator: str, argument: Any, beside: dict[str, Any]) -> bool:
    if operator == "$ne":
        return order_key(item) != order_key(argument)
    if operator == "$nin":
        return all(order_key(item) != order_key(other) for other in argument)
    if operator == "$not":
        return not all(item_fulfils(item, inner, value, argument) for inner, value in argument.items())
    if operator == "$exists":
        return bool(argument)
    if operator == "$all":
        return bool(argument) and all(order_key(item) == order_key(other) for other in argument)
    return value_matches(item, operator, argument, beside)


def hits(document: dict[str, Any], path: str, *, spread: bool) -> list[Any]:
    found = []
    open_ends = [(document, path.split("."))]
    while open_ends:
        node, (name, *rest) = open_ends.pop()
        child = node.get(name, ABSENT)
        if not rest:
            found += [*child, child] if spread and isinstance(child, list) else [child]
        elif isinstance(child, dict):
            open_ends.append((child, rest))
        elif isinstance(child, list):
            for index, item in enumerate(child):
                if isinstance(item, dict):
                    open_ends.append((item, rest))
                if rest[0] != str(index):
                    continue
                if len(rest) == 1:
                    found.append(item)
                elif isinstance(item, dict):
                    open_ends.append((item, rest[1:]))
                elif isinstance(item, list):
                    open_ends.append(({str(number): inner for number, inner in enumerate(item)}, rest[1:]))
        else:
            found.append(ABSENT)
    return found


def order_key(value: Any) -> OrderKey:
    """Return a key that is equal for equal values and sorts within a bracket; its first part is the bracket."""
    rank = bracket(value)
    if rank == 1:
        return (1,)
    if rank == 2:
        return 2, Fraction(value)
    if rank == 3:
        return 3, value.encode()
    if rank == 4:
        return 4, tuple((name, order_key(item)) for name, item in value.items())
    if rank == 5:
        return 5, tuple(order_key(item) for item in value)
    return 8, value


def bracket(value: Any) -> int:
    if value is None or value is ABSENT:
        return 1
    if isinstance(value, bool):
        return 8
    if isinstance(value, (int, float)):
        return 2
    if isinstance(value, str):
        return 3
    return 4 if isinstance(value, dict) else 5


def bson_types(value: Any) -> set[str]:
    if value is ABSENT:
        return set()
    if bracket(value) != 2:
        return {{1: "null", 3: "string", 4: "object", 5: "array", 8: "bool"}[bracket(value)]}
    if isinstance(value, float):
        return {"double", "number"}
    return {"number", "int" if -(2**31) <= value < 2**31 else "long"}


def truncated_remainder(value: Fraction, divisor: int) -> int:
    whole = int(value)  # towards zero
    return whole - divisor * int(Fraction(whole, divisor))


def has_operators(value: Any) -> bool:
    return isinstance(value, dict) and any(name.startswith("$") for name in value)
