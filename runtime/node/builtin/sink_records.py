"""What a sink makes of a message: the document or the point that is stored. Pure.

Everything that a message lacks is a DecodeError with the reason `payload`, which names the field and what it has to be,
and never its value: it goes into logs.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from runtime.errors import DecodeError
from runtime.payload_json import ABSENT, value_at
from runtime.spec.sink import DocumentSink, PointSink
from runtime.stores.base import Document, Point
from runtime.stores.json_values import MAX_INT, MIN_INT
from runtime.stores.measurement import PRECISION_NS, build_point

_KINDS = {str: "a text", bool: "a boolean", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def object_of(data: Any) -> Document:
    """Return the data of a message. Raises DecodeError unless it is a JSON object."""
    if not isinstance(data, dict):
        raise _unfit(f"a sink stores JSON objects, and this message is {_kind(data)}")
    return data


def document_of(spec: DocumentSink, data: Document) -> Document:
    """Return a message with its key as `_id`; where there is no key, whoever saves it gives it an id."""
    if not spec.key:
        if "_id" in data:
            _check_id(data["_id"], "_id")
        return data
    own_id = _present(data, spec.key, "the key of its document")
    _check_id(own_id, spec.key)
    if data.get("_id", own_id) != own_id:
        raise _unfit(f"the message has an '_id' of its own beside '{spec.key}', which becomes its _id")
    return {"_id": own_id, **data}


def _check_id(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise _unfit(f"'{path}' is {_kind(value)}, and a key is a text or a whole number")


def point_of(spec: PointSink, data: Document, *, runtime_tags: Mapping[str, str], stored_ns: int) -> Point:
    """Return a message as a point. stored_ns: its time where the message has none of its own."""
    point = build_point(
        spec.measurement,
        dict(_fields(spec, data)),
        dict(_tags(spec, data)),
        _time(spec, data) if spec.time else stored_ns,
        PRECISION_NS,
        runtime_tags=runtime_tags,
        now_ns=stored_ns,
    )
    if not MIN_INT <= point.time_ns <= MAX_INT:
        raise _unfit(f"'{spec.time}' is not within the years 1678 to 2261")
    return point


def _fields(spec: PointSink, data: Document) -> Iterator[tuple[str, float]]:
    for path in spec.fields:
        value = _present(data, path, "a field of its point")
        if not _is_number(value):
            raise _unfit(f"'{path}' is {_kind(value)}, and a field is a number or a boolean")
        yield path, value
    if spec.fields:
        return
    others = [key for key, value in data.items() if _is_number(value) and key not in (*spec.tags, spec.time)]
    if not others:
        raise _unfit("the message has no number and no boolean, of which a point could be made")
    yield from ((key, data[key]) for key in others)


def _is_number(value: Any) -> bool:
    """Say whether a field may have this value; a boolean is a whole number here."""
    return isinstance(value, float) or (isinstance(value, int) and MIN_INT <= value <= MAX_INT)


def _tags(spec: PointSink, data: Document) -> Iterator[tuple[str, str | int | float]]:
    """Yield the tags that the message has."""
    for path in spec.tags:
        value = value_at(data, path)
        if value is None or value is ABSENT:
            continue
        if not isinstance(value, (str, int, float)):
            raise _unfit(f"'{path}' is {_kind(value)}, and a tag is a text, a number or a boolean")
        yield path, value


def _time(spec: PointSink, data: Document) -> datetime | int:
    value = _present(data, spec.time, "the time of its point")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        what = "a time is an ISO 8601 text or a whole number of nanoseconds"
        raise _unfit(f"'{spec.time}' is {_kind(value)}, and {what}") from None


def _present(data: Document, path: str, what: str) -> Any:
    value = value_at(data, path)
    if value is ABSENT:
        raise _unfit(f"the message has no '{path}', which is {what}")
    return value


def _kind(value: Any) -> str:
    if value == "":
        return "an empty text"
    return "empty" if value is None else _KINDS.get(type(value), type(value).__name__)


def _unfit(what: str) -> DecodeError:
    return DecodeError(what, reason="payload")
