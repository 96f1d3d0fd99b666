"""`NatsBus`: the contract of `bus/base.py` on one NATS connection. Starts here; each part lives in its own file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nats.errors

from runtime.bus.base import (
    GIVE_UP_S,
    ConsumerConfig,
    ConsumerState,
    CoreMessage,
    Headers,
    KeyValue,
    StoredMessage,
    StreamConfig,
    StreamPlacement,
    StreamState,
    Subscription,
)
from runtime.bus.connection import CONNECT_LIMIT_S, Connection
from runtime.bus.core import OnAnswer, Question, Scattered
from runtime.bus.direct import DirectSubscription, header_block
from runtime.bus.kv import NatsKeyValue
from runtime.bus.object_store import ObjectStore, ObjectStoreConfig
from runtime.bus.objects import STORE_PREFIX, NatsObjectStore, stream_of_store
from runtime.bus.publish import NatsPublisher
from runtime.bus.pull import NatsReader
from runtime.bus.replies import Replies
from runtime.bus.scan import NatsScan
from runtime.bus.topology import BUCKET_PREFIX, Topology
from runtime.clock import Clock, SystemClock
from runtime.settings import DEFAULT_INBOX_PREFIX, NatsSettings


class NatsBus:
    """See `bus.base.Bus`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._topology = Topology(connection)
        self._replies = Replies(connection)

    @classmethod
    async def connect(
        cls,
        servers: list[str],
        *,
        name: str,
        clock: Clock | None = None,
        credentials: Path | None = None,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
        request_timeout_s: float = 5.0,
        limit_s: float = CONNECT_LIMIT_S,
    ) -> "NatsBus":
        """Connect within `limit_s` seconds; `name` is shown by the server's monitoring.

        credentials, inbox_prefix: as in `NatsSettings`. Raises BusUnavailableError when no server answers, AccessError
        when it does not let us in, SettingsError for the credentials, ServerError for a server below the floor.
        """
        connection = await Connection.open(
            servers,
            name=name,
            credentials=credentials,
            inbox_prefix=inbox_prefix,
            request_timeout_s=request_timeout_s,
            limit_s=limit_s,
        )
        return cls(connection, clock or SystemClock())

    @classmethod
    async def of(cls, settings: NatsSettings, name: str) -> "NatsBus":
        """Connect as a process's settings say. Raises what `connect` raises."""
        return await cls.connect(
            list(settings.servers),
            name=name,
            credentials=settings.credentials,
            inbox_prefix=settings.inbox_prefix,
            request_timeout_s=settings.request_timeout_s,
        )

    @property
    def max_payload_bytes(self) -> int:
        return self._connection.max_payload_bytes

    # --- core ---

    @property
    def online_s(self) -> float:
        return self._connection.online_s

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        self._connection.write(subject, data, reply, header_block(headers) if headers else b"")

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None
    ) -> CoreMessage:
        return await self._replies.request(subject, data, headers, timeout_s)

    async def scatter(self, questions: Sequence[Question], on_answer: OnAnswer) -> Scattered:
        return await self._replies.scatter(questions, on_answer)

    async def subscribe(
        self, subject: str, callback: Callable[[CoreMessage], None], *, queue: str = ""
    ) -> Subscription:
        def on_arrival(subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
            callback(CoreMessage(subject, data, reply, headers or {}))

        return _Subscription(await self._connection.subscribe(subject, on_arrival, queue))

    def new_inbox(self) -> str:
        return self._connection.new_inbox()

    # --- streams ---

    async def ensure_stream(self, config: StreamConfig) -> list[str]:
        return await self._topology.ensure_stream(config)

    async def delete_stream(self, stream: str) -> None:
        await self._topology.delete_stream(stream)

    async def ensure_consumer(self, config: ConsumerConfig) -> list[str]:
        return await self._topology.ensure_consumer(config)

    async def stream_state(self, stream: str) -> StreamState:
        return await self._topology.stream_state(stream)

    async def stream_placement(self, stream: str) -> StreamPlacement:
        return await self._topology.stream_placement(stream)

    async def consumer_states(self, stream: str) -> list[ConsumerState]:
        return await self._topology.consumer_states(stream)

    async def get_message(self, stream: str, sequence: int) -> StoredMessage:
        return await self._topology.get_message(stream, sequence)

    async def scan(
        self, stream: str, *, subjects: Sequence[str] = (), first_sequence: int = 1, since_ns: int | None = None
    ) -> NatsScan:
        return await NatsScan.open(self._connection, self._topology, stream, subjects, first_sequence, since_ns)

    async def purge(self, stream: str, *, below: int) -> int:
        return await self._topology.purge(stream, below=below)

    async def delete_message(self, stream: str, sequence: int) -> None:
        await self._topology.delete_message(stream, sequence)

    async def delete_consumer(self, stream: str, durable: str) -> None:
        await self._topology.delete_consumer(stream, durable)

    def reader(self, config: ConsumerConfig, *, create: bool) -> NatsReader:
        return NatsReader(self._connection, self._topology, config, self._clock, create=create)

    def publisher(
        self, stream: str, *, on_hold: Callable[[bool], None] | None = None, give_up_s: float = GIVE_UP_S
    ) -> NatsPublisher:
        return NatsPublisher(self._connection, stream, self._clock, on_hold=on_hold, give_up_s=give_up_s)

    async def key_value(
        self, bucket: str, *, create: bool = False, replicas: int | None = None, ttl_s: float | None = None
    ) -> KeyValue:
        if create:
            await self._topology.ensure_bucket(bucket, replicas, ttl_s)
        return await NatsKeyValue.open(self._connection, self._topology, bucket)

    async def expiring_key_value(self, bucket: str, *, ttl_s: float) -> KeyValue:
        return await NatsKeyValue.open_expiring(self._connection, bucket, ttl_s)

    async def buckets(self) -> list[str]:
        return await self._topology.names_behind(BUCKET_PREFIX)

    async def delete_bucket(self, bucket: str) -> None:
        await self._topology.delete_stream(f"{BUCKET_PREFIX}{bucket}")

    # --- object stores ---

    async def ensure_object_store(self, config: ObjectStoreConfig) -> list[str]:
        title = f"object store {config.name}"
        return await self._topology.ensure_stream(stream_of_store(config), title=title, rollup=True)

    async def object_store(self, name: str) -> ObjectStore:
        return await NatsObjectStore.open(self._connection, self._topology, name)

    async def object_stores(self) -> list[str]:
        return await self._topology.names_behind(STORE_PREFIX)

    async def delete_object_store(self, name: str) -> None:
        await self._topology.delete_stream(f"{STORE_PREFIX}{name}")

    # --- life ---

    async def wait_closed(self) -> None:
        await self._connection.closed.wait()

    async def close(self) -> None:
        await self._connection.close()


class _Subscription:
    """See `bus.base.Subscription`."""

    def __init__(self, subscription: DirectSubscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        try:
            await self._subscription.drain()
        except (nats.errors.Error, OSError):  # the connection is away, and the subscription with it
            return
