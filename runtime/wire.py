"""Envelope bytes <-> `Message`: KRE's second wire version with KRT's fields from 16 on, gzip, and the size limit.

Does not own KRE's first version, see `wire_v1.py`, what is inside the payload, see `payload.py`, nor the object stores
of payloads that are larger than a message, see `bus/claims.py`.
"""

import functools
import gzip
import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from runtime.errors import DecodeError, MessageTooLargeError
from runtime.message import MAX_CLAIM_BYTES as MAX_CLAIM_BYTES
from runtime.message import MAX_INFLATED_BYTES as MAX_INFLATED_BYTES
from runtime.message import NO_HEADERS, Claim, Message, MessageType, Payload
from runtime.proto import ClaimFields, Envelope, read_varint, varint
from runtime.wire_version import refuse_first

# The first two bytes of a gzip stream; no envelope begins so (0x1f would be field 3 with the reserved wire type 7).
GZIP_MAGIC = b"\x1f\x8b"
# Room that a message leaves for its headers: a message id now, and later those of its dead letter.
HEADER_ROOM_BYTES = 2048
# Bytes that are compressed between two looks at how much has come out.
SQUEEZE_STEP_BYTES = 1024 * 1024

# Bytes of a message from which on its payload is cut out by hand: for a smaller one protobuf is faster.
LARGE_BYTES = 64 * 1024

# Tag of the envelope's field 23, `run_us`, a number.
_RUN_TAG = b"\xb8\x01"
_TYPES = {int(kind): kind for kind in MessageType}
_new_tuple = tuple.__new__
_parse: Callable[[bytes], Any] = Envelope.FromString
# zlib's number for a gzip stream with the largest window.
_GZIP_WINDOW = zlib.MAX_WBITS | 16


def decode(data: bytes, *, max_inflated_bytes: int = MAX_INFLATED_BYTES, takes_claims: bool = False) -> Message:
    """Read an envelope, gzipped or not.

    takes_claims: the caller fetches a payload that lies in an object store, or needs none. Raises DecodeError with the
    reason `gzip`, `protobuf`, `wire` (bytes of KRE's first version) or `claim`.
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
    claim = _read_claim(envelope, takes_claims) if envelope.claim else None
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
            claim,
        ),
    )


def _read_claim(envelope: Any, takes_claims: bool) -> Claim:
    if not takes_claims:
        raise DecodeError(
            "the payload lies in an object store, which is not read here",
            reason="claim",
            request_id=envelope.request_id,
        )
    try:
        told = ClaimFields.FromString(envelope.claim)
    except ProtobufError as error:
        raise DecodeError(f"broken claim: {error}", reason="claim", request_id=envelope.request_id) from error
    return Claim(object=told.object, size=told.size, sha256=told.sha256)


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
        claim=_claim_field(message.claim) if message.claim else b"",
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


def detach_payload(data: bytes) -> tuple[bytes, bytes]:
    """Return the payload of a large envelope that is not gzipped, and the envelope without it."""
    envelope, payload = _split(data)
    if payload is None:
        payload = envelope.payload
        envelope.ClearField("payload")
    return payload, bytes(envelope.SerializeToString(deterministic=True))


def with_claim(data: bytes, claim: Claim) -> bytes:
    """Return a small envelope with this claim in the place of its payload, or of the claim that it has."""
    envelope = _parse(inflate(data, MAX_INFLATED_BYTES) if data.startswith(GZIP_MAGIC) else data)
    envelope.ClearField("payload")
    envelope.claim = _claim_field(claim)
    return bytes(envelope.SerializeToString(deterministic=True))


def _claim_field(claim: Claim) -> bytes:
    return bytes(ClaimFields(object=claim.object, size=claim.size, sha256=claim.sha256).SerializeToString())


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


def squeeze(data: bytes, limit_bytes: int) -> bytes | None:
    """Return `data` gzipped, the same bytes every time; None as soon as that takes more than `limit_bytes`.

    None for more than a receiver unpacks, too. It may take a while, and belongs into a thread.
    """
    if len(data) > MAX_INFLATED_BYTES:
        return None
    packer = zlib.compressobj(wbits=_GZIP_WINDOW)
    packed = bytearray()
    view = memoryview(data)
    for start in range(0, len(data), SQUEEZE_STEP_BYTES):
        packed += packer.compress(view[start : start + SQUEEZE_STEP_BYTES])
        if len(packed) > limit_bytes:
            return None
    packed += packer.flush()
    return bytes(packed) if len(packed) <= limit_bytes else None


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
