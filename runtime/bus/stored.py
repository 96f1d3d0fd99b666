"""What a stream keeps and how far its consumers are, and reading it without disturbing them; a part of `base.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds now. Sequences count from 1; an empty stream has first = last + 1.

    subjects: how many messages each one has. patterns: what the stream stores, with `*` and `>`.
    """

    messages: int
    size_bytes: int
    first_sequence: int
    last_sequence: int
    subjects: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far a consumer is: `pending` not yet delivered, `ack_pending` delivered and not settled.

    is_push: the server hands messages out without being asked, as the runners of KRE have it.
    """

    name: str
    pending: int
    ack_pending: int
    redelivered: int
    ack_floor: int
    delivered: int
    waiting: int = 0
    filter_subjects: tuple[str, ...] = ()
    is_push: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as a stream keeps it. time_ns: when it was stored, nanoseconds since 1970 (UTC)."""

    subject: str
    sequence: int
    data: bytes
    headers: Mapping[str, str]
    time_ns: int


class Scan(Protocol):
    """Reads the messages of a stream in their order, once each, for somebody who looks on.

    No durable consumer is made or moved, nothing is acknowledged, and what is read does not hold back the purge. A
    message that leaves the stream before its turn is left out.
    """

    @property
    def left(self) -> int:
        """How many messages were still to be read when the last one was, or when the scan began."""
        ...

    async def read(self, *, wait_s: float = 0.0) -> list[StoredMessage]:
        """Return the next messages, a page of them at most; none if none is there, or comes within `wait_s`.

        A lost connection costs no message: reading goes on where it stopped. Raises BusUnavailableError (try again),
        BusClosedError, NotFoundError (the stream is gone).
        """
        ...

    async def close(self) -> None:
        """Let go of what the server keeps for the scan; a scan that is never closed is forgotten by it in a minute."""
        ...
