"""Answers of a workflow as JSON, one line each."""

from typing import Any

import orjson
from google.protobuf import any_pb2


def json_line(value: Any) -> str:
    """Return an answer, or a record that holds one, as JSON in one line; see `plain` for what JSON does not know."""
    return orjson.dumps(value, default=plain).decode()


def plain(value: Any) -> Any:
    """Return what stands in JSON for bytes and for protobuf: the message's own JSON form if its type is known here."""
    from base64 import b64encode

    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if not isinstance(value, any_pb2.Any):
        raise TypeError(f"an answer holds a {type(value).__name__}")
    known = _unpacked(value)
    return {"type": value.TypeName(), "base64": b64encode(value.value).decode()} if known is None else known


def _unpacked(packed: any_pb2.Any) -> Any:
    """Return the JSON form of the message inside; None when its type is unknown here or the bytes do not fit it."""
    from google.protobuf import descriptor_pool, json_format, message_factory
    from google.protobuf.message import DecodeError

    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        message = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, DecodeError):
        return None
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
