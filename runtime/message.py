"""The envelope of a message as an immutable value, and its outcome words. No bytes and no I/O: see `wire.py`."""

import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

# Largest unpacked message, so that a small message cannot fill the memory (KRT_MAX_INFLATED_BYTES).
MAX_INFLATED_BYTES = 128 * 1024 * 1024
# Largest payload, or body of a call, that is handed over in an object store (KRT_MAX_CLAIM_BYTES).
MAX_CLAIM_BYTES = 1024 * 1024 * 1024

# A serialised `google.protobuf.Any`, whole, or in pieces of bytes that are joined only in the envelope: each join of a
# large one is a copy.
Payload: TypeAlias = bytes | tuple[bytes | memoryview, ...]


class MessageType(IntEnum):
    """What kind of message it is; the numbers are those on the wire. UNDEFINED is handled as OK."""

    UNDEFINED = 0
    OK = 1
    ERROR = 2
    EARLY_REPLY = 3
    EARLY_EXIT = 4


class ReplyOutcome(StrEnum):
    """How a request ended, as the exit node and the client say it (lower case on the wire)."""

    OK = "ok"
    INVALID = "invalid"
    TOO_LARGE = "too-large"
    FAILED = "failed"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Where bytes lie that are larger than a message, and what they have to be.

    object: its name in an object store that sender and receiver know. size: in bytes. sha256: in hexadecimal digits.
    """

    object: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstVersion:
    """What a message of KRE's first wire version has beside the fields of `Message`.

    tracking: one serialised entry for each node that it has passed, oldest first, kept as they came. replied: its
    caller has had an early reply. early_exit: what becomes of it goes to the caller. start_ns: when this runner began
    with it, unix time in nanoseconds; not on the wire.
    """

    tracking_id: str
    tracking: tuple[bytes, ...]
    replied: bool
    early_exit: bool
    start_ns: int


# Looked up once: reading a member of an enumeration costs as much as a call.
_OK = MessageType.OK


class Message(NamedTuple):
    """One message of a workflow. A tuple, because one is made for every delivery: a frozen dataclass costs 2 µs more.

    payload: a serialised `google.protobuf.Any`, or b"" for none. error: text of an ERROR. deadline_ms: unix time in
    milliseconds, 0 for none. reply_to: core subject that the exit node answers, "" for none. outcome: set on the last
    answer to a request. first: None but for a message of KRE's first wire version. claim: of a payload that lies in an
    object store; `payload` is b"" until it is fetched.
    """

    request_id: str = ""
    payload: bytes = b""
    error: str = ""
    from_node: str = ""
    type: MessageType = MessageType.OK
    state_id: str = ""
    deadline_ms: int = 0
    reply_to: str = ""
    traceparent: str = ""
    headers: Mapping[str, str] = NO_HEADERS
    outcome: str = ""
    first: FirstVersion | None = None
    claim: Claim | None = None

    def output(self, payload: bytes, node: str) -> "Message":
        """Return what `node` makes of this message for the next one: its ids, deadline and headers, another payload."""
        # As `_replace` does, in a third of the time.
        request_id, state_id, deadline_ms, reply_to, traceparent, headers, first = _passed_on(self)
        ids = request_id, payload, "", node, _OK, state_id, deadline_ms, reply_to, traceparent
        return tuple.__new__(Message, (*ids, headers, "", first, None))

    @property
    def deadline(self) -> datetime | None:
        """The request's deadline as an aware time, or None."""
        return datetime.fromtimestamp(self.deadline_ms / 1000, UTC) if self.deadline_ms else None


_PASSED_ON = ("request_id", "state_id", "deadline_ms", "reply_to", "traceparent", "headers", "first")
_passed_on = operator.itemgetter(*map(Message._fields.index, _PASSED_ON))


def new_request_id() -> str:
    """Return an id that no other request has: 128 random bits as 32 hex digits."""
    return secrets.token_hex(16)
