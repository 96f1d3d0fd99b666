"""What stands in files and messages -> inputs, and outputs -> JSON. No I/O."""

import csv
import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import orjson
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError as ProtobufError

from runtime.payload import describe, encode_value, json_form, native_of

# Numbers of a CSV cell as JSON writes them: `007` and `+1` stay texts, for they may be codes or telephone numbers.
WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class Format(StrEnum):
    """What the bytes of a message are."""

    JSON = "json"
    TEXT = "text"
    BYTES = "bytes"


def decode(data: bytes, form: Format) -> Any:
    """Return the input that a message holds. Raises ValueError saying what is wrong."""
    if form is Format.BYTES:
        return data
    if form is Format.TEXT:
        return text_of(data)
    return json_of(data)


def json_of(data: bytes) -> Any:
    """Return a JSON value. Raises ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error


def text_of(data: bytes) -> str:
    """Return UTF-8 text. Raises ValueError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from error


def column_names(row: Sequence[str]) -> list[str]:
    """Return the names that the first row of a CSV file gives. Raises ValueError unless each is there once."""
    if not row or len(set(row)) < len(row) or "" in row:
        raise ValueError("needs a first row with a name for each column, each once")
    return list(row)


def row_values(names: Sequence[str], row: Sequence[str], *, as_text: bool = False) -> dict[str, Any]:
    """Return a row of CSV by its columns. as_text: cells stay texts. Raises ValueError for a row of another length."""
    if len(row) != len(names):
        raise ValueError(f"has {len(row)} values, the first row {len(names)}")
    return dict(zip(names, row if as_text else map(cell, row), strict=True))


def cell(text: str) -> Any:
    """Return a number or a boolean where the text is one, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text


def csv_row(record: str) -> list[str]:
    """Return the cells of one record, which may hold line breaks in quotes. Raises ValueError."""
    try:
        return next(csv.reader([record], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"is not CSV: {error}") from error


# --- outputs ---


def json_bytes(value: Any) -> bytes:
    """Return an output, or a record that holds one, as JSON; see `plain` for what JSON does not know."""
    return orjson.dumps(value, default=plain)


def plain(value: Any) -> Any:
    """Return what stands in JSON for bytes, native values, and protobuf: the message's own form if it is known here."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, (Decimal, timedelta)):  # in a row of a table
        return str(value)
    if not isinstance(value, any_pb2.Any):
        return _native(value)
    known = _unpacked(value)
    return {"type": value.TypeName(), "base64": b64encode(value.value).decode()} if known is None else known


def _native(value: Any) -> Any:
    """Return an array, table or file as JSON; one without a form there, as complex numbers, as a line about it."""
    try:
        return json_form(value)
    except TypeError:
        if native_of(value) is None:
            raise
        return describe(encode_value(value))


def _unpacked(packed: any_pb2.Any) -> Any:
    """Return the JSON form of the message inside; None when its type is unknown here or the bytes do not fit it."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        message = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, ProtobufError):
        return None
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
