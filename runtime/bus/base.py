"""Contracts of the bus, with their failures. One conformance suite runs on every implementation.

Words: a `Bus` is one connection. A `Reader` takes deliveries from one durable consumer and settles them. A `Publisher`
stores messages in a stream and reports each one's fate. Everything happens on the event loop's thread; methods that
are not `async` never block and never fail for the network's sake.

What an implementation guarantees about a message: a delivery that is not settled within the consumer's ack wait (or
whose process dies) comes again; a message whose `confirm` was called with None is stored and will be delivered to every
consumer of its subject; the same message id within the stream's duplicate window is stored once.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from runtime.bus.batch import BatchMessage
from runtime.bus.core import Core
from runtime.bus.core import CoreMessage as CoreMessage
from runtime.bus.core import Headers as Headers
from runtime.bus.core import Subscription as Subscription
from runtime.bus.object_store import ObjectStores
from runtime.bus.stored import ConsumerState as ConsumerState
from runtime.bus.stored import Scan
from runtime.bus.stored import StoredMessage as StoredMessage
from runtime.bus.stored import StreamState as StreamState
from runtime.errors import BusError
from runtime.message import Message

# How long the server waits for an ack before it delivers again; readers keep long deliveries alive within it.
ACK_WAIT_S = 30.0
# How long a publisher retries one message before it confirms with the error.
GIVE_UP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """A stream: limits retention with discard new, so that a full stream refuses and never discards.

    max_bytes: 0 means no limit. max_age_s: 0 means for ever (only dead letters age; the manager purges the rest).
    duplicate_window_s: how long a message id is remembered, from its first storing. metadata: keys begin with `krt-`.
    atomic: takes batches, which needs nats-server 2.12.
    """

    name: str
    subjects: tuple[str, ...]
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    max_bytes: int = 0
    max_age_s: float = 0.0
    duplicate_window_s: float = 120.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    atomic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """A durable pull consumer: deliver all, explicit ack, unlimited deliveries (the runtime counts attempts)."""

    stream: str
    durable: str
    filter_subjects: tuple[str, ...]
    ack_wait_s: float = ACK_WAIT_S
    max_ack_pending: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A server that keeps a copy of a stream for its leader. lag: operations that it is behind."""

    name: str
    offline: bool
    current: bool
    lag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlacement:
    """Where a stream is kept. leader: name of a server, "" while there is none, or where there is no cluster."""

    storage: str
    replicas: int
    leader: str = ""
    followers: tuple[Follower, ...] = ()

    def behind(self) -> list[Follower]:
        """Return the followers that could not take over without loss: offline, or not up to date."""
        return [follower for follower in self.followers if follower.offline or not follower.current]


class Delivery:
    """One attempt to process a message. Settled exactly once, through the reader that took it.

    sequence: the message's number in its stream. attempt: deliveries so far, from 1, crashes included.
    time_ns: when the stream stored it. pending: messages that wait behind it. reply: the reader's own handle; it
    changes when the same message is delivered again while this process still works on it.
    """

    __slots__ = (
        "attempt", "data", "headers", "kept_alive_s", "message", "origin", "path", "pending", "reply", "sequence",
        "settled", "subject", "time_ns",
    )  # fmt: skip
    message: Message | None

    def __init__(
        self, subject: str, data: bytes, headers: Headers | None, sequence: int, attempt: int,
        time_ns: int, pending: int, reply: str, now_s: float,
    ) -> None:  # fmt: skip
        self.subject = subject
        self.data = data
        self.headers = headers
        self.sequence = sequence
        self.attempt = attempt
        self.time_ns = time_ns
        self.pending = pending
        self.reply = reply
        self.kept_alive_s = now_s
        self.settled = False
        # Of what a fused node hands on inside of its process, see `node/handed.py`; nothing received has them.
        self.origin = 0
        self.path = ""
        self.message = None

    def __repr__(self) -> str:
        return f"<Delivery {self.subject} {self.sequence}#{self.attempt}>"


class ReaderClosed(BusError):
    """`take` on a reader that was drained or closed: there will be no further delivery."""


class Reader(Protocol):
    """Takes deliveries from one durable consumer and never asks for more than its takers and its prefetch can use.

    A reader survives everything that passes: restarts, elections, frozen servers, a consumer that is missing for a
    while. It keeps every unsettled delivery alive at a third of the ack wait, buffered ones too. A message that comes
    again while it is in hand is not handed out twice. Settling is a plain write: a lost ack costs a redelivery, which
    deterministic message ids make harmless; settling late still counts; settling twice does nothing.
    """

    # Messages asked for beyond the takers that wait; set by whoever knows how long handling takes.
    prefetch: int

    @property
    def in_hand(self) -> int:
        """Deliveries that were received and are not settled, buffered ones included."""
        ...

    async def start(self) -> None:
        """Find the consumer and begin to ask. Raises NotFoundError when it is missing for 30 s."""
        ...

    async def take(self) -> Delivery:
        """Wait for the next delivery. Each waiting call is a free slot. Cancelling it loses nothing.

        Raises ReaderClosed once drained, BusClosedError when the connection is gone for good.
        """
        ...

    def ack(self, delivery: Delivery) -> None:
        """The message is done."""
        ...

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        """Deliver the message again after `delay_s`; until then it fills one place of `max_ack_pending`."""
        ...

    def term(self, delivery: Delivery) -> None:
        """Never deliver the message again (its dead letter is stored)."""
        ...

    def keep_alive(self, delivery: Delivery) -> None:
        """Restart the ack wait now."""
        ...

    def hold(self, held: bool) -> None:
        """While held the reader asks for nothing, but keeps alive what is in hand."""
        ...

    async def drain(self) -> None:
        """Stop asking, give back what was not taken, and end every `take` with ReaderClosed. Settling goes on."""
        ...

    async def close(self) -> None:
        """Drain, then nak whatever is still unsettled and forget it."""
        ...


Confirm = Callable[[BusError | None], None]


class Confirmation:
    """A `confirm` that can be awaited: returns once the message is stored, raises the error otherwise."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __call__(self, error: BusError | None) -> None:
        if self._done.done():  # nobody waits any more
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def __await__(self) -> Generator[Any, None, None]:
        return self._done.__await__()


class Publisher(Protocol):
    """Stores messages and confirms each one.

    A publisher retries by itself, under the same message id, what passes: no leader, no answer, a full stream, a lost
    connection. While it retries, `held` is true and `on_hold` was called. After `give_up_s` it confirms with the error.
    """

    @property
    def held(self) -> bool:
        """Whether what is published now would wait: the stream refuses, or NATS is away."""
        ...

    @property
    def limit_bytes(self) -> int:
        """Largest message that the server takes, headers included."""
        ...

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, confirm: Confirm, headers: Headers | None = None
    ) -> None:
        """Hand over one message; returns when it is in the in-flight window, which bounds count and bytes.

        `confirm` is called exactly once, on the loop: with None once stored (a duplicate counts as stored), else with
        StreamFullError, BusUnavailableError, BusClosedError, or with another BusError for what a retry cannot help
        (WrongStreamError, or larger than the stream's own limit).
        Raises MessageTooLargeError (nothing is sent, `confirm` is not called).
        """
        ...

    async def publish_batch(self, messages: Sequence[BatchMessage]) -> None:
        """Hand over several as `publish` does one: the `atomic` stream stores all of them, or none.

        Where it knows the id of one, the batch or a part of it was stored before, and those that are missing follow.
        """
        ...

    async def flush(self) -> None:
        """Wait until everything handed over is confirmed."""
        ...

    async def close(self) -> None:
        """Give up what is unconfirmed: each `confirm` is called with BusClosedError."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a bucket with its revision, for compare-and-set."""

    key: str
    value: bytes
    revision: int


# Key, and what it holds now; None for a key that was deleted.
OnChange = Callable[[str, Entry | None], None]


class KeyValue(Protocol):
    """A bucket. Keys are `[-/_=.a-zA-Z0-9]+` with no dot at either end; values are bytes."""

    async def get(self, key: str) -> Entry:
        """Raises NotFoundError for a missing key and BusUnavailableError for an outage, never one for the other."""
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Write whatever is there now; returns the revision."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """Write only if the key is missing or deleted, else RevisionError."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write only over `revision`, else RevisionError."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the key; a missing key is no error."""
        ...

    async def keys(self) -> list[str]:
        """Every key that has a value, sorted."""
        ...

    async def watch(self, keys: str, on_change: OnChange) -> Subscription:
        """Call back, on the loop, with every entry that is there, and from then on with every change.

        keys: a key in which `*` is one token and `>`, at the end, all that follow. When this returns, everything that
        was there has been told. After an interruption everything is told again. Nothing is told of an entry that
        expires, nor of one that was deleted during an interruption.
        Raises NotFoundError when the bucket is gone, BusUnavailableError.
        """
        ...


class Bus(Core, ObjectStores, Protocol):
    """One connection. Reconnects for ever; `closed` ends when it is closed for good."""

    @property
    def max_payload_bytes(self) -> int: ...

    # --- streams ---

    async def ensure_stream(self, config: StreamConfig) -> list[str]:
        """Create the stream, or update it; returns what changed, one line each.

        The lines are `stream NAME: created`, or `stream NAME: field: old -> new`; none when all is as asked.
        Raises DriftError with the diff when a field cannot be updated, or the server answers other than asked, and
        when there are not as many servers as replicas.
        """
        ...

    async def delete_stream(self, stream: str) -> None:
        """Remove a stream with its messages and its consumers. Raises NotFoundError."""
        ...

    async def ensure_consumer(self, config: ConsumerConfig) -> list[str]:
        """Create the consumer, or update it, as `ensure_stream` does."""
        ...

    async def stream_state(self, stream: str) -> StreamState:
        """Raises NotFoundError, BusUnavailableError."""
        ...

    async def stream_placement(self, stream: str) -> StreamPlacement:
        """Say where the stream is kept. Raises NotFoundError, BusUnavailableError."""
        ...

    async def consumer_states(self, stream: str) -> list[ConsumerState]:
        """Every durable of the stream, sorted by name. Raises NotFoundError, BusUnavailableError.

        Temporary consumers are left out: whoever looks on must not hold back the purge.
        """
        ...

    async def get_message(self, stream: str, sequence: int) -> StoredMessage:
        """Read one stored message without any consumer. Raises NotFoundError."""
        ...

    async def scan(
        self, stream: str, *, subjects: Sequence[str] = (), first_sequence: int = 1, since_ns: int | None = None
    ) -> Scan:
        """Begin to read the stored messages of these subjects (none: of all) from a sequence on.

        since_ns: begin at the first message stored then or later, and not at a sequence. Raises NotFoundError.
        """
        ...

    async def purge(self, stream: str, *, below: int) -> int:
        """Remove every message with a sequence under `below`; returns how many. Only the manager calls this."""
        ...

    async def delete_message(self, stream: str, sequence: int) -> None:
        """Remove one message. Raises NotFoundError."""
        ...

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Remove a consumer; its messages stay in the stream. Raises NotFoundError."""
        ...

    def reader(self, config: ConsumerConfig, *, create: bool) -> Reader:
        """Return a reader of the consumer; with `create` a missing consumer is made, otherwise it is waited for."""
        ...

    def publisher(
        self, stream: str, *, on_hold: Callable[[bool], None] | None = None, give_up_s: float = GIVE_UP_S
    ) -> Publisher:
        """Return a publisher into the stream.

        `on_hold(True)` is called when it begins to wait, `on_hold(False)` when it stores again or has given up all.
        """
        ...

    async def key_value(
        self, bucket: str, *, create: bool = False, replicas: int | None = None, ttl_s: float | None = None
    ) -> KeyValue:
        """Open a bucket. Raises NotFoundError unless `create`.

        replicas: servers that keep it at least; a bucket that exists gets more of them, and never fewer, for other
        workflows may share it. None is 1 for a new bucket.
        ttl_s: how long an entry lives after its last write, 0 for ever; None likewise, and is 0 for a new bucket.
        """
        ...

    async def expiring_key_value(self, bucket: str, *, ttl_s: float) -> KeyValue:
        """Open a bucket, made if missing, whose entries are gone `ttl_s` seconds after their last write.

        It lies in the memory of one server and is lost with it: it is for what its writers repeat.
        """
        ...

    async def buckets(self) -> list[str]:
        """Every bucket of the server that this connection may see, sorted."""
        ...

    async def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket with its values. Raises NotFoundError."""
        ...

    # --- life ---

    async def wait_closed(self) -> None:
        """Return when the connection is closed for good; a process whose bus is closed has to end."""
        ...

    async def close(self) -> None:
        """Write out what was sent, then close. Readers and publishers are to be closed before."""
        ...
