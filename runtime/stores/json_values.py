"""What a document or a query may hold: JSON values that every store keeps exactly. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from runtime.errors import StoreError

# Nesting that MongoDB stores; it also ends a value that contains itself.
MAX_DEPTH = 100
# Integers that MongoDB and SQLite keep exactly: 64 bits, signed.
MIN_INT, MAX_INT = -(2**63), 2**63 - 1


def plain(value: Any, refusal: type[StoreError], path: str = "") -> Any:
    """Return `value` as dict, list, str, int, float, bool and None alone; what was passed is not changed.

    Tuples become lists and subclasses (numpy's float64, text enums) their base, as `json.dumps` has it.
    Raises `refusal` with the key path of the first value that no store keeps exactly.
    """
    return _plain(value, refusal, path, 0)


def _plain(value: Any, refusal: type[StoreError], path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, refusal, path)
    if isinstance(value, int):
        return _integer(value, refusal, path)
    if isinstance(value, float):
        return _float(value, refusal, path)
    if depth >= MAX_DEPTH:
        raise refusal(f"{_name(path)} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return _object(value, refusal, path, depth)
    if isinstance(value, (list, tuple)):
        return [
            item if _is_plain(item) else _plain(item, refusal, _join(path, str(i)), depth + 1)
            for i, item in enumerate(value)
        ]
    raise refusal(
        f"{_name(path)} is of type '{type(value).__name__}', expected JSON: text, number, boolean, None, list or dict"
    )


def _is_plain(value: Any) -> bool:
    """Say at once of nearly every value in a document that it is stored as it is; of the others nothing."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    if kind is int:
        return bool(MIN_INT <= value <= MAX_INT)
    if kind is float:
        return math.isfinite(value)
    return value is None or kind is bool


def _object(value: Mapping[Any, Any], refusal: type[StoreError], path: str, depth: int) -> dict[str, Any]:
    result = {}
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            key = _key(key, refusal, path)
        result[key] = item if _is_plain(item) else _plain(item, refusal, _join(path, key), depth + 1)
    return result


def _key(key: Any, refusal: type[StoreError], path: str) -> str:
    if not isinstance(key, str):
        raise refusal(f"{_name(path)} has the key {key!r} of type '{type(key).__name__}', expected text")
    return _text(key, refusal, _join(path, key))


def _text(value: str, refusal: type[StoreError], path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise refusal(f"{_name(path)} holds a lone surrogate, which is no valid Unicode text") from error
    return value if type(value) is str else str.__str__(value)


def _integer(value: int, refusal: type[StoreError], path: str) -> int:
    if not MIN_INT <= value <= MAX_INT:
        raise refusal(f"{_name(path)} is {value}, an integer beyond 64 bits; send it as text")
    return int(value)


def _float(value: float, refusal: type[StoreError], path: str) -> float:
    if not math.isfinite(value):
        raise refusal(f"{_name(path)} is {float(value)}, which JSON cannot hold; send None or text")
    return float(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _name(path: str) -> str:
    shown = path.encode("ascii", "backslashreplace").decode() if not path.isprintable() else path
    return f"'{shown}'" if path else "the value"
