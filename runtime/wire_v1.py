"""Envelope bytes <-> `Message` for KRE's first wire version, which only bare runners speak.

`reply` is the request's id here, and `tracking` tells which nodes the message has passed, and when. It is read
leniently: entries are kept as the bytes that came, and the times in them are looked at for measurements alone.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError as ProtobufError

from runtime import wire
from runtime.errors import DecodeError, MessageTooLargeError
from runtime.message import FirstVersion, Message, MessageType
from runtime.proto import FirstEnvelope, Tracking
from runtime.wire_version import refuse_second

# Who sent a message that has passed no node.
ENTRYPOINT = "entrypoint"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Passage(NamedTuple):
    """A tracking entry: when a message was in a node. Times are None where the entry has none that can be read."""

    node: str
    start: datetime | None
    end: datetime | None


def decode(data: bytes, *, now_ns: int, max_inflated_bytes: int = wire.MAX_INFLATED_BYTES) -> Message:
    """Read an envelope, gzipped or not; `now_ns` is when this runner begins with it.

    Raises DecodeError with the reason `gzip`, `protobuf` or `wire` (bytes of KRE's second version).
    """
    if data.startswith(wire.GZIP_MAGIC):
        data = wire.inflate(data, max_inflated_bytes)
    refuse_second(data)
    try:
        envelope = FirstEnvelope.FromString(data)
    except ProtobufError as error:
        raise DecodeError(f"{len(data)} bytes that are no envelope: {error}", reason="protobuf") from error
    tracking = tuple(envelope.tracking)
    return Message(
        request_id=envelope.reply,
        payload=envelope.payload,
        error=envelope.error,
        from_node=read_passage(tracking[-1]).node if tracking else ENTRYPOINT,
        type=MessageType.ERROR if envelope.error else MessageType.OK,
        first=FirstVersion(
            tracking_id=envelope.tracking_id,
            tracking=tracking,
            replied=envelope.replied,
            early_exit=envelope.early_exit,
            start_ns=now_ns,
        ),
    )


def encode_output(source: Message, payload: bytes, *, node: str, end_ns: int, replied: bool) -> bytes:
    """Return the envelope of an output of `source`: its ids and tracking, with the entry of `node` behind."""
    first = first_of(source)
    entry = Tracking(node_name=node, start=_time_text(first.start_ns), end=_time_text(end_ns))
    return _serialise(
        FirstEnvelope(
            tracking_id=first.tracking_id,
            tracking=[*first.tracking, entry.SerializeToString()],
            reply=source.request_id,
            payload=payload,
            replied=replied,
        )
    )


def encode_reply(source: Message, payload: bytes) -> bytes:
    """Return the envelope of an early reply."""
    return _serialise(FirstEnvelope(reply=source.request_id, payload=payload))


def encode_error(source: Message, text: str) -> bytes:
    """Return the envelope that tells the caller of `source` that it was given up."""
    return _serialise(FirstEnvelope(tracking_id=first_of(source).tracking_id, reply=source.request_id, error=text))


def fit(data: bytes, limit_bytes: int) -> bytes:
    """Do what `wire.fit` does; what is too large is told in KRE's words."""
    room = limit_bytes - wire.HEADER_ROOM_BYTES
    if len(data) <= room:
        return data
    packed = wire.compress(data)
    if len(packed) <= room:
        return packed
    raise MessageTooLargeError(
        f"compressed message {len(packed) / 1024:.2f} KB exceeds maximum size allowed of {limit_bytes / 1024:.2f} KB."
    )


def first_of(message: Message) -> FirstVersion:
    """Return what only the first version has, empty for a message that could not be read."""
    return message.first or _UNREAD


def read_passage(entry: bytes) -> Passage:
    """Read a tracking entry, as far as it can be read."""
    try:
        tracking = Tracking.FromString(entry)
    except ProtobufError:
        return Passage(ENTRYPOINT, None, None)
    return Passage(tracking.node_name or ENTRYPOINT, _read_time(tracking.start), _read_time(tracking.end))


def time_of(time_ns: int) -> datetime:
    """Return a unix time as it stands on the wire: UTC without a zone, cut down to microseconds."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1_000)).replace(tzinfo=None)


def _time_text(time_ns: int) -> str:
    return time_of(time_ns).isoformat(timespec="microseconds")


def _read_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is None else None


def _serialise(envelope: Any) -> bytes:
    return bytes(envelope.SerializeToString())


_UNREAD = FirstVersion(tracking_id="", tracking=(), replied=False, early_exit=False, start_ns=0)
