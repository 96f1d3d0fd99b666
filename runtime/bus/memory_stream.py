"""The server half of a stream in memory: stored messages, deduplication, limits and its consumers.

Owns what `StreamConfig` promises. Does not know connections: `memory.py` joins them.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from runtime.bus.base import ConsumerConfig, Headers, StoredMessage, StreamConfig, StreamState
from runtime.bus.batch import BatchMessage
from runtime.bus.memory_consumer import MemoryConsumer
from runtime.bus.subjects import matches
from runtime.clock import Clock
from runtime.errors import BusUnavailableError, NotFoundError, StreamFullError

# The header that JetStream deduplicates by.
MESSAGE_ID_HEADER = "Nats-Msg-Id"

# Bytes that a file stream adds to each message: record header, header length and checksum.
RECORD_OVERHEAD_BYTES = 34


def header_size(headers: Headers) -> int:
    """Return the bytes of a header block on the wire: a version line, `name: value` lines and an empty line."""
    if not headers:
        return 0
    lines = sum(len(name.encode()) + len(value.encode()) + len(": \r\n") for name, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines


def _stored_size(message: StoredMessage) -> int:
    return RECORD_OVERHEAD_BYTES + len(message.subject) + header_size(message.headers) + len(message.data)


class MemoryStream:
    """One stream. Every method is immediate; consumers hand over on the loop soon after."""

    def __init__(self, config: StreamConfig, clock: Clock) -> None:
        self.config = config
        self.consumers: dict[str, MemoryConsumer] = {}
        self._clock = clock
        self._messages: dict[int, StoredMessage] = {}
        self._last_sequence = 0
        self._size_bytes = 0
        # Message id -> when it was first stored, oldest first.
        self._ids: dict[str, float] = {}
        # Called whenever a message was stored.
        self.on_store: set[Callable[[], None]] = set()

    def listens_to(self, subject: str) -> bool:
        """Say whether a message on `subject` belongs to this stream."""
        return any(matches(pattern, subject) for pattern in self.config.subjects)

    def store(self, subject: str, data: bytes, headers: Headers) -> None:
        """Store a message; a known message id is success. Raises StreamFullError."""
        now_s = self._clock.monotonic()
        self._forget_old_ids(now_s)
        message_id = headers.get(MESSAGE_ID_HEADER, "")
        if message_id in self._ids:
            return
        message = StoredMessage(subject, self._last_sequence + 1, data, headers, self._clock.time_ns())
        size_bytes = _stored_size(message)
        self._refuse_beyond_limit(size_bytes)
        if message_id:
            self._ids[message_id] = now_s
        self._last_sequence = message.sequence
        self._size_bytes += size_bytes
        self._messages[message.sequence] = message
        for consumer in self.consumers.values():
            consumer.offer(message)
        for told in tuple(self.on_store):
            told()

    def store_batch(self, messages: Sequence[BatchMessage]) -> None:
        """Store all messages whose ids are new, or none. Raises StreamFullError, BusUnavailableError."""
        if not self.config.atomic:
            raise BusUnavailableError(f"stream {self.config.name} takes no batches")
        self._forget_old_ids(self._clock.monotonic())
        new = [(each, {MESSAGE_ID_HEADER: each.message_id}) for each in messages if each.message_id not in self._ids]
        size_bytes = sum(
            _stored_size(StoredMessage(each.subject, 0, each.payload, headers, 0)) for each, headers in new
        )
        self._refuse_beyond_limit(size_bytes)
        for each, headers in new:
            self.store(each.subject, each.payload, headers)

    def _refuse_beyond_limit(self, size_bytes: int) -> None:
        if 0 < self.config.max_bytes < self._size_bytes + size_bytes:
            raise StreamFullError(f"stream {self.config.name} is full: {self._size_bytes} of {self.config.max_bytes} B")

    def _forget_old_ids(self, now_s: float) -> None:
        while self._ids:
            oldest = next(iter(self._ids))
            if now_s - self._ids[oldest] < self.config.duplicate_window_s:
                return
            del self._ids[oldest]

    def get(self, sequence: int) -> StoredMessage:
        """Raises NotFoundError."""
        message = self._messages.get(sequence)
        if message is None:
            raise NotFoundError(f"stream {self.config.name} has no message {sequence}")
        return message

    def messages(self) -> list[StoredMessage]:
        """Return everything that is kept, in its order."""
        return list(self._messages.values())

    def delete(self, sequence: int) -> None:
        """Remove one message. Raises NotFoundError."""
        self._remove([self.get(sequence)])

    def purge(self, below: int) -> int:
        """Remove what lies under `below`, whether delivered or not; returns how many."""
        gone = [message for message in self._messages.values() if message.sequence < below]
        self._remove(gone)
        for consumer in self.consumers.values():
            consumer.skip_to(min(below, self._last_sequence + 1))
        return len(gone)

    def expire(self) -> None:
        """Remove what is older than the stream's `max_age_s`."""
        if self.config.max_age_s:
            oldest_ns = self._clock.time_ns() - round(self.config.max_age_s * 1e9)
            self._remove([message for message in self._messages.values() if message.time_ns <= oldest_ns])

    def _remove(self, messages: list[StoredMessage]) -> None:
        for message in messages:
            del self._messages[message.sequence]
            self._size_bytes -= _stored_size(message)
            for consumer in self.consumers.values():
                consumer.forget(message.sequence)

    def add_consumer(self, config: ConsumerConfig) -> MemoryConsumer:
        """Create a durable that starts at the first message."""
        consumer = MemoryConsumer(config, self._messages, self._clock)
        self.consumers[config.durable] = consumer
        return consumer

    def state(self) -> StreamState:
        return StreamState(
            messages=len(self._messages),
            size_bytes=self._size_bytes,
            first_sequence=next(iter(self._messages), self._last_sequence + 1),
            last_sequence=self._last_sequence,
            subjects=dict(Counter(message.subject for message in self._messages.values())),
            metadata=self.config.metadata,
            patterns=self.config.subjects,
        )
