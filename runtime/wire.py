"""Envelope bytes <-> `Message`: KRE's second wire version with KRT's fields from 16 on, gzip, and the size limit.

Does not own KRE's first version, see `wire_v1.py`, nor what is inside the payload, see `payload.py`.
"""

import functools
import gzip
import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from runtime.errors import DecodeError, MessageTooLargeError
from runtime.message import NO_HEADERS, Message, MessageType, Payload
from runtime.proto import Envelope, read_varint, varint
from runtime.wire_version import refuse_first

# The first two bytes of a gzip stream; no envelope begins so (0x1f would be field 3 with the reserved wire type 7).
GZIP_MAGIC = b"\x1f\x8b"
# Largest unpacked message, so that a small message cannot fill the memory (KRT_MAX_INFLATED_BYTES).
MAX_INFLATED_BYTES = 128 * 1024 * 1024
# Largest body that is handed over in an object store (KRT_MAX_CLAIM_BYTES).
MAX_CLAIM_BYTES = 1024 * 1024 * 1024
# Room that a message leaves for its headers: a message id now, and later those of its dead letter.
HEADER_ROOM_BYTES = 2048

# Bytes of a message from which on its payload is cut out by hand: for a smaller one protobuf is faster.
LARGE_BYTES = 64 * 1024

# Tag of the envelope's field 23, `run_us`, a number.
_RUN_TAG = b"\xb8\x01"
_TYPES = {int(kind): kind for kind in MessageType}
_new_tuple = tuple.__new__
_parse: Callable[[bytes], Any] = Envelope.FromString


def decode(data: bytes, *, max_inflated_bytes: int = MAX_INFLATED_BYTES) -> Message:
    """Read an envelope, gzipped or not.

    Raises DecodeError with the reason `gzip`, `protobuf`, `wire` (bytes of KRE's first version) or `claim`.
    """
    if data.startswith(GZIP_MAGIC):
        data = inflate(data, max_inflated_bytes)
    try:
        envelope, payload = _split(data) if len(data) >= LARGE_BYTES else (_parse(data), None)
    except ProtobufError as error:
        refuse_first(data)
        raise DecodeError(f"{len(data)} bytes that are no envelope: {error}", reason="protobuf") from error
    kind = envelope.message_type
    if kind == 0:
        refuse_first(data)
    if kind not in _TYPES:
        raise DecodeError(f"unknown message_type {kind}; this runtime knows 0 to 4", reason="protobuf")
    if envelope.claim:
        raise DecodeError(
            "the payload lies in an object store, which this version does not read",
            reason="claim",
            request_id=envelope.request_id,
        )
    # Made as the tuple that it is: going through Message's own arguments takes three times as long.
    return _new_tuple(
        Message,
        (
            envelope.request_id,
            envelope.payload if payload is None else payload,
            envelope.error,
            envelope.from_node,
            _TYPES[kind],
            envelope.state_id,
            envelope.deadline,
            envelope.reply_to,
            envelope.traceparent,
            dict(envelope.headers) if envelope.headers else NO_HEADERS,
            envelope.outcome,
            None,
        ),
    )


def _split(data: bytes) -> tuple[Any, bytes | None]:
    """Return the envelope without its payload, and the payload: protobuf would copy it twice. Raises ProtobufError.

    Where something else stands first, or there is a second payload, the envelope has the payload, and None is beside.
    """
    position = 0
    if data.startswith(b"\x0a"):
        length, position = read_varint(data, 1)
        position += length
    if data.startswith(b"\x12", position):
        length, begin = read_varint(data, position + 1)
        end = begin + length
        if end <= len(data):
            envelope = _parse(data[:position] + data[end:])
            if not envelope.payload:
                return envelope, data[begin:end]
    return _parse(data), None


def encode(message: Message) -> bytes:
    """Return the envelope's bytes; the same message always gives the same bytes."""
    envelope = Envelope(
        error=message.error,
        from_node=message.from_node,
        message_type=message.type,
        state_id=message.state_id,
        deadline=message.deadline_ms,
        reply_to=message.reply_to,
        traceparent=message.traceparent,
        headers=message.headers,
        outcome=message.outcome,
    )
    return _serialised(envelope, message.request_id, message.payload)


def encode_output(
    source: Message,
    payload: Payload,
    *,
    from_node: str,
    kind: MessageType,
    error: str = "",
    outcome: str = "",
    run_us: int = 0,
) -> bytes:
    """Return the envelope of an output of `source`: its ids, deadline and headers with another payload.

    run_us: how long the handler ran, in microseconds; 0 where that is not known.
    """
    if not (
        source.reply_to or source.state_id or source.deadline_ms or source.traceparent or source.headers
        or error or outcome
    ):  # fmt: skip
        return _joined(source.request_id.encode(), payload, _tail(from_node, kind), _run_field(run_us))
    envelope = Envelope(from_node=from_node, message_type=kind)
    if source.reply_to:
        envelope.reply_to = source.reply_to
    if source.state_id:
        envelope.state_id = source.state_id
    if source.deadline_ms:
        envelope.deadline = source.deadline_ms
    if source.traceparent:
        envelope.traceparent = source.traceparent
    if source.headers:
        envelope.headers.update(source.headers)
    if error:
        envelope.error = error
    if outcome:
        envelope.outcome = outcome
    if run_us:
        envelope.run_us = run_us
    return _serialised(envelope, source.request_id, payload)


def _serialised(envelope: Any, request_id: str, payload: Payload) -> bytes:
    """Return an envelope's bytes with its first two fields: by hand if protobuf would copy a large payload thrice."""
    # Deterministic: map entries have no order of their own, and a retry must have the same bytes.
    if isinstance(payload, bytes) and len(payload) < LARGE_BYTES:
        envelope.request_id = request_id
        envelope.payload = payload
        return bytes(envelope.SerializeToString(deterministic=True))
    return _joined(request_id.encode(), payload, envelope.SerializeToString(deterministic=True))


def _joined(request_id: bytes, payload: Payload, rest: bytes, run_field: bytes = b"") -> bytes:
    """Return an envelope put together by hand, which takes a third of the time. rest: the fields from 3 on."""
    head = b"\x0a", varint(len(request_id)), request_id, b"\x12"
    if isinstance(payload, bytes):
        return b"".join((*head, varint(len(payload)), payload, rest, run_field))
    return b"".join((*head, varint(sum(map(len, payload))), *payload, rest, run_field))


@functools.lru_cache(maxsize=1024)
def _run_field(run_us: int) -> bytes:
    """Return the field that tells the handler's time: kept, for the handlers that are called most take microseconds."""
    return _RUN_TAG + varint(run_us) if run_us else b""


@functools.lru_cache(maxsize=64)
def _tail(from_node: str, kind: MessageType) -> bytes:
    """Return the fields behind the payload, which are the same for every output of a node."""
    return bytes(Envelope(from_node=from_node, message_type=kind).SerializeToString())


def run_time_us(data: bytes) -> int:
    """Return how long the handler ran that sent this envelope, in microseconds; 0 where it does not say."""
    if data.startswith(GZIP_MAGIC):
        data = inflate(data, MAX_INFLATED_BYTES)
    return int(_parse(data).run_us)


def fit(data: bytes, limit_bytes: int) -> bytes:
    """Return `data`, gzipped if it is larger than `limit_bytes` with room for the headers.

    Raises MessageTooLargeError when that does not help. Compressing the same bytes gives the same bytes.
    """
    room = limit_bytes - HEADER_ROOM_BYTES
    if len(data) <= room:
        return data
    packed = compress(data)
    if len(packed) <= room:
        return packed
    raise MessageTooLargeError(
        f"compressed message exceeds maximum size allowed: {len(packed):,} of {limit_bytes:,} bytes"
        f" ({len(data):,} before compression); send less, or raise the server's max_payload"
    )


def compress(data: bytes) -> bytes:
    """Return `data` gzipped, the same bytes every time."""
    return gzip.compress(data, mtime=0)


def inflate(data: bytes, max_bytes: int) -> bytes:
    """Unpack gzip, never allocating more than `max_bytes`. Raises DecodeError with the reason `gzip`."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(data, max_bytes)
    except zlib.error as error:
        raise DecodeError(f"broken gzip: {error}", reason="gzip") from error
    if unpacker.unconsumed_tail:
        raise DecodeError(f"unpacks to more than {max_bytes:,} bytes (KRT_MAX_INFLATED_BYTES)", reason="gzip")
    if not unpacker.eof:
        raise DecodeError("gzip ends in the middle", reason="gzip")
    return unpacked
