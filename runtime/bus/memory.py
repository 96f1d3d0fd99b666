"""A bus in memory with the semantics of JetStream, for tests of the runtime and of users.

`MemoryBroker` is the server, `MemoryBus` one connection to it. Nothing is handed over or confirmed inside the call that
caused it, as on a network; time passes by the broker's clock alone.

    broker = MemoryBroker(FakeClock())
    bus = broker.connect()
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial

from runtime.bus.base import (
    GIVE_UP_S,
    ConsumerConfig,
    ConsumerState,
    CoreMessage,
    Headers,
    StoredMessage,
    StreamConfig,
    StreamPlacement,
    StreamState,
)
from runtime.bus.batch import BatchMessage
from runtime.bus.core import NO_RESPONDERS, OnAnswer, Question
from runtime.bus.memory_core import MemoryRouter, MemoryScattered, MemorySubscription
from runtime.bus.memory_kv import MemoryBucket, MemoryKeyValue
from runtime.bus.memory_objects import MemoryObjects, MemoryObjectStore
from runtime.bus.memory_publisher import MemoryPublisher
from runtime.bus.memory_reader import MemoryReader
from runtime.bus.memory_scan import MemoryScan
from runtime.bus.memory_stream import header_size
from runtime.bus.memory_streams import MemoryStreams
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import Clock
from runtime.errors import (
    BusClosedError,
    BusUnavailableError,
    MessageTooLargeError,
    NoRespondersError,
    NotFoundError,
)

# Largest message with its headers, as a server takes it by default.
MAX_PAYLOAD_BYTES = 1024 * 1024


class MemoryBroker:
    """The server: streams, buckets and core subscriptions that its connections share."""

    def __init__(self, clock: Clock, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self.clock = clock
        self.max_payload_bytes = max_payload_bytes
        self.router = MemoryRouter()
        self.streams = MemoryStreams(clock)
        self.buckets: dict[str, MemoryBucket] = {}
        self.object_stores: dict[str, MemoryObjects] = {}
        self._refused_publishes = 0
        self._inbox_numbers = itertools.count(1)
        # When it went on after the last pause, by its clock.
        self.resumed_s = 0.0

    def connect(self) -> "MemoryBus":
        return MemoryBus(self)

    def store(self, expected_stream: str, subject: str, data: bytes, headers: Headers) -> None:
        """Store a message in the stream of its subject; raises why it is refused."""
        self._fail_if_told()
        self.streams.store(expected_stream, subject, data, headers)

    def store_batch(self, expected_stream: str, messages: Sequence[BatchMessage]) -> None:
        """Store all messages of a batch or none; raises why they are refused."""
        self._fail_if_told()
        self.streams.store_batch(expected_stream, messages)

    def _fail_if_told(self) -> None:
        if self.streams.paused or self._refused_publishes > 0:
            self._refused_publishes = max(0, self._refused_publishes - 1)
            raise BusUnavailableError("no answer to a publish")

    def bucket(self, name: str, ttl_s: float | None = None) -> MemoryBucket:
        """Return the bucket, made if missing; None leaves the time to live as it is."""
        bucket = self.buckets.setdefault(name, MemoryBucket(self.clock, 0.0))
        if ttl_s is not None:
            bucket.ttl_s = ttl_s
        return bucket

    def send(self, message: CoreMessage) -> bool:
        """Route a core message, unless paused; returns whether anybody listens."""
        return self.streams.paused or self.router.route(message)

    def new_inbox(self) -> str:
        return f"_INBOX.{next(self._inbox_numbers)}"

    # --- faults, for tests ---

    def fail_publishes(self, count: int) -> None:
        """Leave the next `count` attempts to store a message without an answer."""
        self._refused_publishes = count

    def pause(self) -> None:
        """Freeze: nothing is stored, delivered or answered until `resume`."""
        self.streams.set_paused(True)

    def resume(self) -> None:
        self.resumed_s = self.clock.monotonic()
        self.streams.set_paused(False)

    def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete a durable under its readers."""
        self.streams.stream(stream).consumers.pop(durable).deleted()

    def redeliver(self, stream: str, durable: str, sequence: int) -> None:
        """Deliver a message again while somebody still works on it."""
        self.streams.stream(stream).consumers[durable].nak(sequence, 0.0)


class MemoryBus:
    """See `base.Bus`: one connection to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._connected_s = broker.clock.monotonic()
        self._closed = asyncio.Event()
        self._readers: list[MemoryReader] = []
        self._publishers: list[MemoryPublisher] = []
        self._subscriptions: list[MemorySubscription] = []

    @property
    def max_payload_bytes(self) -> int:
        return self._broker.max_payload_bytes

    def _check(self) -> None:
        if self._closed.is_set():
            raise BusClosedError("the connection is closed")
        if self._broker.streams.paused:
            raise BusUnavailableError("the server does not answer")

    # --- core ---

    @property
    def online_s(self) -> float:
        if self._closed.is_set() or self._broker.streams.paused:
            return 0.0
        return self._broker.clock.monotonic() - max(self._connected_s, self._broker.resumed_s)

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        if self._closed.is_set():
            return
        if not self._broker.send(CoreMessage(subject, data, reply, headers or {})) and reply:
            self._broker.send(CoreMessage(reply, b"", "", NO_RESPONDERS))

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None
    ) -> CoreMessage:
        self._check_request(subject, data, headers)
        answer: asyncio.Future[CoreMessage] = asyncio.get_running_loop().create_future()
        late = BusUnavailableError(f"no answer to a request on {subject} within {timeout_s} s")
        inbox = self.new_inbox()
        subscription = self._broker.router.subscribe(inbox, lambda message: _resolve(answer, message), "")
        timer = self._broker.clock.call_later(timeout_s, lambda: _fail(answer, late))
        try:
            if not self._broker.send(CoreMessage(subject, data, inbox, headers or {})):
                raise NoRespondersError(f"nobody listens on {subject}")
            return await answer
        finally:
            timer.cancel()
            subscription.remove()

    async def scatter(self, questions: Sequence[Question], on_answer: OnAnswer) -> MemoryScattered:
        for question in questions:
            self._check_request(question.subject, question.data, question.headers)
        scattered = MemoryScattered(self._broker.router, self.new_inbox(), on_answer)
        for number, question in enumerate(questions):
            reply = scattered.reply_to(number)
            if not self._broker.send(CoreMessage(question.subject, question.data, reply, question.headers or {})):
                scattered.no_responders(number, question.subject)
        return scattered

    def _check_request(self, subject: str, data: bytes, headers: Headers | None) -> None:
        if self._closed.is_set():
            raise BusClosedError("the connection is closed")
        if len(data) + header_size(headers or {}) > self.max_payload_bytes:
            raise MessageTooLargeError(f"a request of {len(data)} bytes on {subject} is larger than the server takes")

    async def subscribe(
        self, subject: str, callback: Callable[[CoreMessage], None], *, queue: str = ""
    ) -> MemorySubscription:
        self._check()
        subscription = self._broker.router.subscribe(subject, callback, queue)
        self._subscriptions.append(subscription)
        return subscription

    def new_inbox(self) -> str:
        return self._broker.new_inbox()

    # --- streams ---

    async def ensure_stream(self, config: StreamConfig) -> list[str]:
        self._check()
        return self._broker.streams.ensure_stream(config)

    async def delete_stream(self, stream: str) -> None:
        self._check()
        self._broker.streams.delete_stream(stream)

    async def ensure_consumer(self, config: ConsumerConfig) -> list[str]:
        self._check()
        return self._broker.streams.ensure_consumer(config)

    async def stream_state(self, stream: str) -> StreamState:
        self._check()
        return self._broker.streams.stream(stream).state()

    async def stream_placement(self, stream: str) -> StreamPlacement:
        self._check()
        config = self._broker.streams.stream(stream).config
        return StreamPlacement(storage=config.storage, replicas=config.replicas)

    async def consumer_states(self, stream: str) -> list[ConsumerState]:
        self._check()
        consumers = self._broker.streams.stream(stream).consumers
        return [consumers[name].state() for name in sorted(consumers)]

    async def get_message(self, stream: str, sequence: int) -> StoredMessage:
        self._check()
        return self._broker.streams.stream(stream).get(sequence)

    async def scan(
        self, stream: str, *, subjects: Sequence[str] = (), first_sequence: int = 1, since_ns: int | None = None
    ) -> MemoryScan:
        self._check()
        return MemoryScan(self._broker.streams, stream, subjects, first_sequence, since_ns, self._broker.clock)

    async def purge(self, stream: str, *, below: int) -> int:
        self._check()
        return self._broker.streams.stream(stream).purge(below)

    async def delete_message(self, stream: str, sequence: int) -> None:
        self._check()
        self._broker.streams.stream(stream).delete(sequence)

    async def delete_consumer(self, stream: str, durable: str) -> None:
        self._check()
        if durable not in self._broker.streams.stream(stream).consumers:
            raise NotFoundError(f"stream {stream} has no consumer {durable}")
        self._broker.delete_consumer(stream, durable)

    def reader(self, config: ConsumerConfig, *, create: bool) -> MemoryReader:
        reader = MemoryReader(
            config, lambda: self._broker.streams.find_consumer(config, create=create), self._broker.clock
        )
        self._readers.append(reader)
        return reader

    def publisher(
        self, stream: str, *, on_hold: Callable[[bool], None] | None = None, give_up_s: float = GIVE_UP_S
    ) -> MemoryPublisher:
        publisher = MemoryPublisher(
            partial(self._broker.store, stream),
            partial(self._broker.store_batch, stream),
            self._broker.clock,
            limit_bytes=self.max_payload_bytes,
            give_up_s=give_up_s,
            on_hold=on_hold,
        )
        self._publishers.append(publisher)
        return publisher

    async def key_value(
        self, bucket: str, *, create: bool = False, replicas: int | None = None, ttl_s: float | None = None
    ) -> MemoryKeyValue:
        self._check()
        if bucket not in self._broker.buckets and not create:
            raise NotFoundError(f"there is no bucket {bucket}")
        return MemoryKeyValue(self._broker.bucket(bucket, ttl_s if create else None), self._check)

    async def expiring_key_value(self, bucket: str, *, ttl_s: float) -> MemoryKeyValue:
        self._check()
        return MemoryKeyValue(self._broker.bucket(bucket, ttl_s), self._check)

    async def buckets(self) -> list[str]:
        self._check()
        return sorted(self._broker.buckets)

    async def delete_bucket(self, bucket: str) -> None:
        self._check()
        if self._broker.buckets.pop(bucket, None) is None:
            raise NotFoundError(f"there is no bucket {bucket}")

    # --- object stores ---

    async def ensure_object_store(self, config: ObjectStoreConfig) -> list[str]:
        self._check()
        if (known := self._broker.object_stores.get(config.name)) is not None:
            return known.update(config)
        self._broker.object_stores[config.name] = MemoryObjects(config, self._broker.clock)
        return [f"object store {config.name}: created"]

    async def object_store(self, name: str) -> MemoryObjectStore:
        self._objects(name)
        return MemoryObjectStore(lambda: self._objects(name))

    async def object_stores(self) -> list[str]:
        self._check()
        return sorted(self._broker.object_stores)

    async def delete_object_store(self, name: str) -> None:
        self._objects(name)
        del self._broker.object_stores[name]

    def _objects(self, name: str) -> MemoryObjects:
        self._check()
        if name not in self._broker.object_stores:
            raise NotFoundError(f"there is no object store {name}")
        return self._broker.object_stores[name]

    # --- life ---

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        """Lose the connection at once, as a killed process does: nothing in hand is settled."""
        if self._closed.is_set():
            return
        self._closed.set()
        why = BusClosedError("the connection was closed")
        for subscription in self._subscriptions:
            subscription.remove()
        for reader in self._readers:
            reader.disconnect(why)
        for publisher in self._publishers:
            publisher.disconnect(why)


def _resolve(answer: "asyncio.Future[CoreMessage]", message: CoreMessage) -> None:
    if not answer.done():
        answer.set_result(message)


def _fail(answer: "asyncio.Future[CoreMessage]", error: BusUnavailableError) -> None:
    if not answer.done():
        answer.set_exception(error)
