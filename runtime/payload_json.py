"""Values as JSON, as they stand in payloads; what has no form there is named with its key path."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import orjson
import pydantic

from runtime.errors import EncodeError

# What `value_at` returns where nothing is.
ABSENT: Any = object()
_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def encode_json(value: Any) -> bytes:
    """Return a value as JSON. Raises EncodeError naming the type, or the key path of what does not fit."""
    try:
        text = orjson.dumps(value, _plain, _JSON_OPTIONS)
    except TypeError as error:
        raise EncodeError(_find_fault(value) or f"cannot be sent as JSON: {error}") from error
    if b"null" in text and (fault := _find_fault(value)):  # orjson writes NaN and infinities as null
        raise EncodeError(fault)
    return text


def value_at(data: Any, path: str) -> Any:
    """Return what lies at a path into objects, names parted by dots; ABSENT where nothing does, not even null."""
    for name in path.split("."):
        if not isinstance(data, dict) or name not in data:
            return ABSENT
        data = data[name]
    return data


def _plain(value: Any) -> Any:
    """Turn what orjson does not know into what it knows; called by orjson."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"type {type(value).__name__} has no JSON form")


def _find_fault(value: Any) -> str:
    try:
        return _describe_fault(value)
    except RecursionError:
        return "the value is nested too deeply, or holds itself"


def _describe_fault(value: Any, path: str = "") -> str:
    """Return the first thing in `value` that has no form in JSON, with its key path, or ""."""
    at = f" at {path}" if path else ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}{at} has no form in JSON"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return f"the integer{at} is beyond 64 bits"
    if isinstance(value, pydantic.BaseModel):
        return _describe_fault(value.model_dump(), path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy's arrays and numbers; numpy itself is the user's
        return _describe_fault(value.tolist(), path)
    if isinstance(value, Mapping):
        return _first_fault(value.items(), path)
    if isinstance(value, (list, tuple)):
        return _first_fault(enumerate(value), path)
    try:
        orjson.dumps(value, _plain, _JSON_OPTIONS)
    except TypeError:
        return f"{type(value).__name__}{at} has no form in JSON"
    return ""


def _first_fault(items: Any, path: str) -> str:
    for key, item in items:
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            return f"key {key!r} at {path or 'the top'} is no text"
        step = f"{path}.{key}" if path else str(key)
        if fault := _describe_fault(item, step):
            return fault
    return ""
