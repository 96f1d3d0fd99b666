"""`ctx.measurement.save`: from its arguments to a `Point`. Pure, and called on the path of a message."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from numbers import Integral, Real
from typing import Any

from runtime.stores.base import Point
from runtime.stores.json_values import MAX_INT, MIN_INT

PRECISION_S = "s"
PRECISION_MS = "ms"
PRECISION_US = "us"
PRECISION_NS = "ns"

# Nanoseconds of one step, by precision.
_STEP_NS = {PRECISION_S: 1_000_000_000, PRECISION_MS: 1_000_000, PRECISION_US: 1_000, PRECISION_NS: 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Below, plain classes are asked for before the abstract ones, which take ten times as long to answer.

FieldValue = float | int | bool | str


def build_point(
    measurement: str,
    fields: Mapping[str, Any],
    tags: Mapping[str, Any] | None,
    time: datetime | int | None,
    precision: str,
    *,
    runtime_tags: Mapping[str, str],
    now_ns: int,
) -> Point:
    """Return the point of one `ctx.measurement.save`; it may have no fields, which the store drops and counts.

    fields: None, NaN and infinities are left out. tags: numbers become text, None and "" are left out;
    `runtime_tags` are added last and win. time: naive is UTC, an integer counts steps of `precision`, None is `now_ns`;
    every time is cut down to `precision`. The time that this takes (about 3 µs) is the handler's.
    Raises TypeError for an argument of a wrong type, ValueError for a precision that does not exist.
    """
    if not isinstance(measurement, str) or not measurement:
        raise TypeError(f"[ctx.measurement.save] invalid 'measurement'={measurement!r}, must be a nonempty string")
    step_ns = _STEP_NS.get(precision)
    if step_ns is None:
        raise ValueError(f"[ctx.measurement.save] invalid 'precision'={precision!r}, must be one of s, ms, us, ns")
    time_ns = _time_ns(time, step_ns, now_ns)
    return Point(
        measurement=measurement,
        fields=_fields(_mapping(fields, "fields")),
        tags=_tags(_mapping(tags or {}, "tags"), runtime_tags),
        time_ns=time_ns - time_ns % step_ns,
    )


def _mapping(value: Any, argument: str) -> Mapping[Any, Any]:
    if not isinstance(value, (dict, Mapping)):
        raise TypeError(f"[ctx.measurement.save] invalid '{argument}'='{type(value).__name__}', must be a dict")
    return value


def _fields(fields: Mapping[Any, Any]) -> dict[str, FieldValue]:
    result = {}
    for key, value in fields.items():
        if not isinstance(key, str):
            raise TypeError(f"[ctx.measurement.save] invalid key {key!r} in 'fields', must be a string")
        field = _field(key, value)
        if field is not None:
            result[key] = field
    return result


def _field(key: str, value: Any) -> FieldValue | None:
    """Return the value as a plain type, None for one that is left out. numpy's numbers count as numbers."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, Integral)):
        number = int(value)
        if MIN_INT <= number <= MAX_INT:
            return number
        raise TypeError(f"[ctx.measurement.save] invalid field '{key}'={number}, must fit into 64 bits")
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(
        f"[ctx.measurement.save] invalid field '{key}' of type '{type(value).__name__}', "
        "must be a number, a boolean or a string"
    )


def _tags(tags: Mapping[Any, Any], runtime_tags: Mapping[str, str]) -> dict[str, str]:
    result = {}
    for key, value in tags.items():
        if not isinstance(key, str):
            raise TypeError(f"[ctx.measurement.save] invalid key {key!r} in 'tags', must be a string")
        if not isinstance(value, (str, int, Real)) and value is not None:
            raise TypeError(
                f"[ctx.measurement.save] invalid tag '{key}' of type '{type(value).__name__}', must be a string"
            )
        result[key] = "" if value is None else str(value)
    result.update(runtime_tags)
    return {key: value for key, value in result.items() if value}


def _time_ns(time: datetime | int | None, step_ns: int, now_ns: int) -> int:
    if time is None:
        return now_ns
    if isinstance(time, datetime):
        aware = time.replace(tzinfo=UTC) if time.utcoffset() is None else time
        # Not timestamp(): its float is off by up to 100 ns today.
        return (aware - _EPOCH) // _MICROSECOND * 1_000
    if isinstance(time, int) and not isinstance(time, bool):
        return time * step_ns
    raise TypeError(f"[ctx.measurement.save] invalid 'time' of type '{type(time).__name__}', must be a datetime")
