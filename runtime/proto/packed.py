"""A serialised `google.protobuf.Any` read and written by hand, so that a large value is copied once, or not at all.

Payloads are such bytes. What is read here comes from anybody: lengths are checked before anything is cut out.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

from runtime.errors import DecodeError
from runtime.message import Payload
from runtime.proto import read_varint, varint

TYPE_PREFIX = "type.googleapis.com/"
# Fields of one message that are looked at; ours have four, or one for each dimension where a writer does not pack them.
MAX_FIELDS = 128

# Bytes of a length, at most.
MAX_VARINT = 5

# Wire types of protobuf: a number, and anything with a length.
NUMBER, CONTENT = 0, 2


class Field(NamedTuple):
    """One field of a message. value: of a number, None for a field with a content, which lies from begin to end."""

    number: int
    value: int | None
    begin: int
    end: int


def any_head(type_name: str) -> bytes:
    """Return the bytes of an Any up to the tag of its value: field 1 with the type, tag of field 2."""
    url = (TYPE_PREFIX + type_name).encode()
    return b"\x0a" + bytes([len(url)]) + url + b"\x12"


def whole(payload: Payload) -> bytes:
    """Return a payload in one piece."""
    return payload if isinstance(payload, bytes) else b"".join(payload)


def wrapped(head: bytes, content: bytes | memoryview) -> Payload:
    """Return the Any whose message holds `content` in field 1."""
    return _before(head, len(content)), content


def content_of(payload: bytes, head: bytes) -> bytes | None:
    """Return field 1 of the message in the Any, None for an Any of another type than `head`. Raises DecodeError."""
    usual = _usually_before(head, len(payload))
    if payload.startswith(usual):
        return payload[len(usual) :]
    start = content_start(payload, head)
    return None if start is None else payload[start:]


# What stands before a content follows from its length. Most messages of a workflow have one of a few lengths.
@functools.lru_cache(maxsize=4096)
def _before(head: bytes, size: int) -> bytes:
    tag = b"\x0a" + varint(size)
    return head + varint(len(tag) + size) + tag


@functools.lru_cache(maxsize=4096)
def _usually_before(head: bytes, payload_size: int) -> bytes:
    """Return the same for an Any of `payload_size` bytes, if its lengths are written as short as can be.

    Where no content makes an Any of this size: a byte as which none begins.
    """
    for size in range(payload_size - len(head) - 2 * MAX_VARINT, payload_size - len(head)):
        if size >= 0 and len(before := _before(head, size)) + size == payload_size:
            return before
    return b"\xff"


def content_start(payload: bytes, head: bytes) -> int | None:
    """Return where field 1 of the message begins, which goes to the end; None for an Any of another type than `head`.

    Raises DecodeError for lengths that do not agree, or for a further field.
    """
    start = message_start(payload, head)
    if start is None or start == len(payload):
        return start
    if payload[start] == 0x0A:
        length, start = read_varint(payload, start + 1)
        if start + length == len(payload):
            return start
    raise _broken()


def message_start(payload: bytes, head: bytes) -> int | None:
    """Return where the message begins, which goes to the end; None for an Any of another type than `head`.

    Raises DecodeError for lengths that do not agree.
    """
    if not payload.startswith(head):
        return len(payload) if payload == head[:-1] else None  # protobuf leaves an empty message out
    length, start = read_varint(payload, len(head))
    if start + length != len(payload):
        raise _broken()
    return start


def fields(payload: bytes, begin: int) -> Iterator[Field]:
    """Yield the fields of the message that begins there and goes to the end. Raises DecodeError when one is cut off."""
    end = len(payload)
    for _ in range(MAX_FIELDS):
        if begin == end:
            return
        tag, begin = read_varint(payload, begin)
        value, begin = read_varint(payload, begin)
        if tag & 7 == NUMBER:
            yield Field(tag >> 3, value, begin, begin)
        elif tag & 7 == CONTENT and begin + value <= end:
            yield Field(tag >> 3, None, begin, begin + value)
            begin += value
        else:
            break
    raise _broken()


def field(number: int, size: int) -> bytes:
    """Return what stands before the content of a field: its tag and its length."""
    return varint(number << 3 | CONTENT) + varint(size)


def _broken() -> DecodeError:
    return DecodeError("the payload's inner message is cut off, or has an unexpected field", reason="payload")
