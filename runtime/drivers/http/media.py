"""Native values as bodies of HTTP: files as they are, arrays as numpy's files, tables as Arrow streams, or all as JSON.

| the workflow takes | Content-Type | inputs |
|---|---|---|
| a file | any, but those that a form of any site can send | a File of this type, its name from `Krt-File-Name` |
| an array | `application/x-npy`, or JSON | the array; lists, read as the dtype that the handler takes |
| a table | `application/vnd.apache.arrow.stream`, or JSON | the table; a list of rows |
"""

from collections.abc import Mapping
from typing import Any

import orjson

from runtime import payload
from runtime.errors import DecodeError
from runtime.payload import Native
from runtime.payload_files import File

JSON, NPY, ARROW = "application/json", "application/x-npy", "application/vnd.apache.arrow.stream"
FILE_NAME_HEADER = "krt-file-name"
# What a page of any site may send through the browser of one who may use the driver, without asking first:
# https://fetch.spec.whatwg.org/#cors-safelisted-request-header
FORM_TYPES = ("", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded")
# Bodies that hold nothing but a value of these kinds; JSON does, too.
MEDIA_TYPES: Mapping[Native, str] = {Native.ARRAY: NPY, Native.TABLE: ARROW}


def native_of(schema: Mapping[str, Any]) -> Native | None:
    """Return which native kind a schema stands for, as nodes tell it; None for JSON, bytes and what is not known."""
    told = schema.get("format")
    return Native(told) if told in tuple(Native) else None


def read(native: Native, body: bytes) -> Any:
    """Return the array or table in a body of its own type. Raises ValueError, ImportError without its library."""
    try:
        return payload.codec(native).from_media(body)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def from_json(native: Native, value: Any, dtype: str) -> Any:
    """Return the array or table that a JSON value stands for. Raises ValueError, ImportError without its library."""
    codec = payload.codec(native)
    return codec.from_json(value, dtype) if native is Native.ARRAY else codec.from_json(value)


def written(value: Any, accept: str) -> tuple[bytes, str]:
    """Return a native value as a body with its type: JSON unless the client accepts the kind's own, or JSON has none.

    NaN and infinities are null in JSON.
    """
    if isinstance(value, File):
        return value.data, value.content_type
    native = payload.native_of(value)
    assert native is not None, "the caller has asked"
    media_type = MEDIA_TYPES[native]
    if media_type not in accept:
        try:
            return orjson.dumps(payload.json_form(value)), JSON
        except TypeError:  # complex numbers, bytes
            pass
    body: bytes = payload.codec(native).to_media(value)
    return body, media_type
