"""Every stream of a broker in memory: found by name or by subject, created, and updated where NATS could update."""

import itertools
from collections.abc import Sequence
from dataclasses import fields

from runtime.bus.base import ConsumerConfig, Headers, StreamConfig
from runtime.bus.batch import BatchMessage
from runtime.bus.memory_consumer import MemoryConsumer
from runtime.bus.memory_stream import MemoryStream
from runtime.bus.subjects import overlap
from runtime.clock import Clock
from runtime.errors import BusUnavailableError, DriftError, NotFoundError, WrongStreamError


class MemoryStreams:
    """The streams that the connections of one broker share."""

    def __init__(self, clock: Clock) -> None:
        self.paused = False
        self._clock = clock
        self._streams: dict[str, MemoryStream] = {}

    def stream(self, name: str) -> MemoryStream:
        """Raises NotFoundError."""
        stream = self._streams.get(name)
        if stream is None:
            raise NotFoundError(f"there is no stream {name}")
        stream.expire()
        return stream

    def ensure_stream(self, config: StreamConfig) -> list[str]:
        title = f"stream {config.name}"
        self._refuse_shared_subjects(config)
        stream = self._streams.get(config.name)
        if stream is None:
            self._streams[config.name] = MemoryStream(config, self._clock)
            return [f"{title}: created"]
        if stream.config.storage != config.storage:
            raise DriftError(
                f"{title} cannot be changed in place: storage: {stream.config.storage} -> {config.storage}"
            )
        changes = _changes(title, stream.config, config)
        stream.config = config
        return changes

    def delete_stream(self, name: str) -> None:
        """Raises NotFoundError."""
        del self._streams[self.stream(name).config.name]

    def _refuse_shared_subjects(self, config: StreamConfig) -> None:
        for name, other in self._streams.items():
            pairs = itertools.product(other.config.subjects, config.subjects)
            if name != config.name and any(overlap(theirs, ours) for theirs, ours in pairs):
                raise WrongStreamError(f"stream {config.name} would share subjects with {name}")

    def ensure_consumer(self, config: ConsumerConfig) -> list[str]:
        title = f"consumer {config.durable} of stream {config.stream}"
        stream = self.stream(config.stream)
        consumer = stream.consumers.get(config.durable)
        if consumer is None:
            stream.add_consumer(config).paused = self.paused
            return [f"{title}: created"]
        changes = _changes(title, consumer.config, config)
        if changes:
            consumer.update(config)
        return changes

    def find_consumer(self, config: ConsumerConfig, *, create: bool) -> MemoryConsumer | None:
        """Return the consumer as it is; a missing one is made with `create`, else None."""
        if self.paused or config.stream not in self._streams:
            return None
        consumers = self.stream(config.stream).consumers
        if config.durable not in consumers and create:
            self.ensure_consumer(config)
        return consumers.get(config.durable)

    def store(self, expected_stream: str, subject: str, data: bytes, headers: Headers) -> None:
        """Store a message in the stream of its subject; raises why it is refused."""
        self._expect(expected_stream, subject).store(subject, data, headers)

    def store_batch(self, expected_stream: str, messages: Sequence[BatchMessage]) -> None:
        """Store all messages of a batch or none, as `store` does one."""
        for message in messages:
            self._expect(expected_stream, message.subject)
        self.stream(expected_stream).store_batch(messages)

    def _expect(self, expected_stream: str, subject: str) -> MemoryStream:
        """Return the stream of a subject. Raises BusUnavailableError for none, WrongStreamError for another one."""
        stream = next((one for one in self._streams.values() if one.listens_to(subject)), None)
        if stream is None:
            raise BusUnavailableError(f"no stream has the subject {subject}")
        if stream.config.name != expected_stream:
            raise WrongStreamError(f"{subject} belongs to stream {stream.config.name}, not to {expected_stream}")
        return stream

    def set_paused(self, paused: bool) -> None:
        """Stop every consumer from delivering, or let it go on."""
        self.paused = paused
        for stream in self._streams.values():
            for consumer in stream.consumers.values():
                consumer.paused = paused
                consumer.wake()


def _changes(title: str, old: StreamConfig | ConsumerConfig, new: StreamConfig | ConsumerConfig) -> list[str]:
    pairs = [(each.name, getattr(old, each.name), getattr(new, each.name)) for each in fields(old)]
    return [f"{title}: {name}: {was} -> {becomes}" for name, was, becomes in pairs if was != becomes]
