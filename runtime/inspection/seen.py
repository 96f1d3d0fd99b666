"""A stored message as somebody who looks on sees it: the envelope of either wire version, the value as far as known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime import payload, wire, wire_v1
from runtime.bus.stored import StoredMessage
from runtime.errors import DecodeError
from runtime.message import Claim, Message, MessageType
from runtime.spec import names
from runtime.spec.hops import Hop, read_hops


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One message of a stream. Nothing here raises: `fault` says what could not be read, and the rest is empty then.

    stored_ns: unix time in nanoseconds. redrive: how often the message itself was redriven. payload_type: full name of
    the protobuf message that holds the value. value: as `shown` gives it. run_s: how long the handler
    ran that sent it, None where the message does not say. hops: the nodes of a fused chain that led to it before the
    sender, without a message of their own. headers: of the envelope. claim: of a payload that lies in an object store,
    whose value is not told here; claim_is_gone: see `payloads.look_up`.
    """

    sequence: int
    subject: str
    stored_ns: int
    size_bytes: int
    message_id: str
    redrive: int
    run_s: float | None
    request_id: str
    from_node: str
    type: str
    error: str
    payload_type: str
    value: Any
    fault: str
    hops: tuple[Hop, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    claim: Claim | None = None
    claim_is_gone: bool = False


def see(stored: StoredMessage) -> Seen:
    """Decode a message for people."""
    message, value, run_us, fault = Message(), None, 0, ""
    try:
        message = decode(stored.data)
        run_us = wire.run_time_us(stored.data) if message.first is None else 0
        value = shown(message.payload)
    except DecodeError as error:
        fault = str(error)
    return Seen(
        sequence=stored.sequence,
        subject=stored.subject,
        stored_ns=stored.time_ns,
        size_bytes=len(stored.data),
        message_id=stored.headers.get(names.MESSAGE_ID_HEADER, ""),
        redrive=_number(stored.headers.get(names.REDRIVE_HEADER, "")),
        run_s=run_us / 1e6 if run_us else None,
        request_id=message.request_id,
        from_node=message.from_node,
        type=MessageType(message.type).name,
        error=message.error,
        payload_type=_type_of(message.payload),
        value=value,
        fault=fault,
        claim=message.claim,
        hops=read_hops(stored.headers.get(names.HOPS_HEADER, "")),
        headers=message.headers,
    )


def shown(packed: bytes) -> Any:
    """Return a payload as people read it: `payload.decode_value`, or a line about an array, a table or a file.

    Raises DecodeError.
    """
    return payload.describe(packed) or payload.decode_value(packed)


def decode(data: bytes) -> Message:
    """Read an envelope of whichever wire version it can only be; a claimed payload is b"". Raises DecodeError."""
    try:
        return wire.decode(data, takes_claims=True)
    except DecodeError as error:
        if error.reason != "wire":
            raise
        return wire_v1.decode(data, now_ns=0)


def _type_of(packed: bytes) -> str:
    try:
        return payload.describe_type(packed) if packed else ""
    except DecodeError:
        return ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
