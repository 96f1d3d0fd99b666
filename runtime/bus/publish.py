"""The publish path: pipelined, confirmed, repeated under the same id until it is stored or given up.

Costs per message: one small object and one table entry; no future, task or timer. One wildcard subscription receives
all PubAcks, one ticker looks for overdue ones.
"""

import asyncio
import bisect
import json
import logging
import random
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from runtime.bus.base import GIVE_UP_S, Confirm, Headers
from runtime.bus.batch import BatchMessage, check_size, headers_of
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectSubscription, header_block
from runtime.clock import Clock
from runtime.errors import (
    BusClosedError,
    BusError,
    BusUnavailableError,
    MessageTooLargeError,
    StreamFullError,
    WrongStreamError,
)

log = logging.getLogger(__name__)

# Bounds of what is handed over and not confirmed; beyond them `publish` waits.
MAX_IN_FLIGHT = 4_000
MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024
# Seconds between looks at what is overdue or due again.
TICK_S = 0.05
# Delays of a repeated publish: an election answers "no stream" at once, and a hot loop would make thousands of tries.
BACKOFF_FIRST_S = 0.05
# An election takes a cluster 4 to 9 s, and only one message is tried: waiting longer would only prolong the outage.
BACKOFF_MAX_S = 0.25
MESSAGE_ID = "Nats-Msg-Id"

# JetStream's err_code: https://github.com/nats-io/nats-server/blob/main/server/errors.json
_FULL = 10077
_TOO_LARGE = 10054
_WRONG_STREAM = 10060
_KNOWN_ID = 10201
_BATCH_TOO_LARGE = 10199


class _Unconfirmed:
    __slots__ = ("block", "confirm", "due_s", "error", "first_s", "order", "payload", "size", "subject")

    def __init__(
        self, order: int, subject: str, payload: bytes, block: bytes, size: int, confirm: Confirm, now_s: float
    ) -> None:
        self.order = order
        self.subject = subject
        self.payload = payload
        self.block = block
        self.size = size
        self.confirm = confirm
        self.first_s = now_s
        self.due_s = 0.0
        self.error: BusError | None = None


class _UnconfirmedBatch(_Unconfirmed):
    """Messages that are written, answered and repeated as one."""

    __slots__ = ("messages",)

    def __init__(self, order: int, messages: Sequence[BatchMessage], size: int, now_s: float) -> None:
        super().__init__(order, messages[-1].subject, b"", b"", size, self._confirm_each, now_s)
        self.messages = messages

    def _confirm_each(self, error: BusError | None) -> None:
        for message in self.messages:
            message.confirm(error)


class NatsPublisher:
    """See `bus.base.Publisher`."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        clock: Clock,
        *,
        on_hold: Callable[[bool], None] | None = None,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._clock = clock
        self._on_hold = on_hold
        self._give_up_s = give_up_s
        self._timeout_s = connection.request_timeout_s
        self._prefix = ""
        self._number = 0
        self._bytes = 0
        self._order = 0
        # What waits for its PubAck, oldest first, and what was refused or came behind it, in the order of publishing.
        self._sent: dict[int, _Unconfirmed] = {}
        self._refused: list[_Unconfirmed] = []
        # The oldest refused message, sent again on its own: the others follow once it is stored.
        self._probe: _Unconfirmed | None = None
        self._refusals = 0
        self._next_probe_s = 0.0
        self._checked_subjects: set[str] = set()
        # Futures of those who wait for room in the window, or for everything to be confirmed.
        self._waiting: list[asyncio.Future[None]] = []
        # Unconfirmed messages that were refused at least once; while there are any, the publisher is held.
        self._troubled = 0
        self._held = False
        self._closed = False
        self._opening = asyncio.Lock()
        self._subscription: DirectSubscription | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<NatsPublisher {self._stream} sent={len(self._sent)} refused={len(self._refused)} held={self._held}>"

    @property
    def held(self) -> bool:
        # Nothing is refused while NATS is away, and nothing is stored.
        return self._held or not self._connection.is_connected

    @property
    def limit_bytes(self) -> int:
        return self._connection.max_payload_bytes

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, confirm: Confirm, headers: Headers | None = None
    ) -> None:
        block = header_block({MESSAGE_ID: message_id} if headers is None else {MESSAGE_ID: message_id, **headers})
        # The server counts headers too, and an overrun costs the connection for good (nats-py closes).
        size = len(payload) + len(block)
        if size > self.limit_bytes:
            raise MessageTooLargeError(
                f"a message for {subject} has {size:,} bytes with its headers, the server takes {self.limit_bytes:,}"
            )
        if self._subscription is None:
            await self._open()
        while len(self._sent) + len(self._refused) >= MAX_IN_FLIGHT or self._bytes + size > MAX_IN_FLIGHT_BYTES:
            await self._next_confirm()
        if self._closed:
            confirm(BusClosedError(f"the publisher into {self._stream} is closed"))
            return
        self._bytes += size
        now_s = self._clock.monotonic()
        self._order = order = self._order + 1
        message = _Unconfirmed(order, subject, payload, block, size, confirm, now_s)
        if self._refused or self._probe is not None:
            self._refused.append(message)  # behind what waits, so that nothing overtakes it
        else:
            self._write(message, now_s)

    async def publish_batch(self, messages: Sequence[BatchMessage]) -> None:
        size = check_size(messages, self.limit_bytes)
        if self._subscription is None:
            await self._open()
        while len(self._sent) + len(self._refused) >= MAX_IN_FLIGHT or self._bytes + size > MAX_IN_FLIGHT_BYTES:
            await self._next_confirm()
        self._order = order = self._order + 1
        now_s = self._clock.monotonic()
        batch = _UnconfirmedBatch(order, messages, size, now_s)
        if self._closed:
            batch.confirm(BusClosedError(f"the publisher into {self._stream} is closed"))
            return
        self._bytes += size
        if self._refused or self._probe is not None:
            self._refused.append(batch)
        else:
            self._write_batch(batch, now_s)

    async def flush(self) -> None:
        while self._sent or self._refused:
            await self._next_confirm()

    async def close(self) -> None:
        self._closed = True
        self._stop_listening()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        if self._subscription is not None and self._connection.is_connected:
            await self._subscription.drain()
        error = BusClosedError(f"the publisher into {self._stream} was closed before this message was confirmed")
        unconfirmed = [*self._sent.values(), *self._refused]
        self._sent.clear()
        self._refused.clear()
        for message in unconfirmed:
            self._finish(message, error)
        self._wake_waiting()

    async def _next_confirm(self) -> None:
        """Wait until a message is confirmed; a wait object exists only while somebody waits."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(confirmed)
        await confirmed

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # --- sending ---

    async def _open(self) -> None:
        async with self._opening:
            if self._subscription is not None:
                return
            self._prefix = f"{self._connection.new_inbox()}."
            subscription = await self._connection.subscribe(f"{self._prefix}*", self._on_answer)
            self._stop_listening = self._connection.listen(
                on_disconnect=self._on_disconnect, on_reconnect=self._on_reconnect
            )
            self._ticker = asyncio.create_task(self._tick(), name=f"publisher {self._stream}")
            self._subscription = subscription

    def _write(self, message: _Unconfirmed, now_s: float) -> None:
        self._number = number = self._number + 1
        message.due_s = now_s + self._timeout_s
        self._sent[number] = message
        self._connection.write(message.subject, message.payload, f"{self._prefix}{number}", message.block)

    def _write_again(self, message: _Unconfirmed, now_s: float) -> None:
        if isinstance(message, _UnconfirmedBatch):
            self._write_batch(message, now_s)
        else:
            self._write(message, now_s)

    def _write_batch(self, batch: _UnconfirmedBatch, now_s: float) -> None:
        """Write a whole batch, each time under a new id: of an earlier one the server may still await the rest."""
        self._number = number = self._number + 1
        batch.due_s = now_s + self._timeout_s
        self._sent[number] = batch
        batch_id = f"{self._prefix.split('.')[-2]}-{number}"
        count = len(batch.messages)
        for place, message in enumerate(batch.messages, start=1):
            block = header_block({MESSAGE_ID: message.message_id, **headers_of(batch_id, place, count)})
            # Only the last one is answered where we listen. The others have a reply for the sake of `discard`.
            reply = f"{self._prefix}{number}" if place == count else f"{self._prefix}{number}.{place}"
            self._connection.write(message.subject, message.payload, reply, block)

    def _on_disconnect(self) -> None:
        self._connection.discard(self._prefix)

    def _on_reconnect(self) -> None:
        """Send everything unconfirmed again, in its order: what became of it is not known, its id makes it harmless."""
        self._connection.discard(self._prefix)  # handed over while NATS was away: it is in the table as well
        unknown = list(self._sent.values())
        self._sent.clear()
        now_s = self._clock.monotonic()
        for message in unknown:
            self._write_again(message, now_s)

    # --- answers ---

    def _on_answer(self, subject: str, _: str, data: bytes, __: Headers | None) -> None:
        message = self._sent.pop(int(subject[len(self._prefix) :]), None)
        if message is None:  # answered already, after it was sent again
            return
        if not data:  # status 503: no stream on this subject, or its leader is being elected
            self._refuse(message, BusUnavailableError(f"no stream takes {message.subject}; its leader may be missing"))
        elif b'"error"' in data:
            self._on_error(message, json.loads(data)["error"])
        elif message.subject in self._checked_subjects or self._is_our_stream(message, data):
            self._finish(message, None)

    def _is_our_stream(self, message: _Unconfirmed, data: bytes) -> bool:
        stored_in = json.loads(data)["stream"]
        if stored_in == self._stream:
            self._checked_subjects.add(message.subject)
            return True
        self._finish(message, WrongStreamError(f"{message.subject} went into {stored_in}, not into {self._stream}"))
        return False

    def _on_error(self, message: _Unconfirmed, error: dict[str, Any]) -> None:
        code, text = error.get("err_code"), error.get("description", "")
        if code == _FULL:
            self._refuse(message, StreamFullError(f"stream {self._stream} is full: {text}"))
        elif code == _WRONG_STREAM:
            self._finish(message, WrongStreamError(f"stream {self._stream} refuses {message.subject}: {text}"))
        elif code in (_TOO_LARGE, _BATCH_TOO_LARGE):
            self._finish(message, BusError(f"stream {self._stream} refuses {message.size:,} bytes: {text}"))
        elif code == _KNOWN_ID and isinstance(message, _UnconfirmedBatch):
            self._separate(message)
        else:
            self._refuse(message, BusUnavailableError(f"stream {self._stream} refuses {message.subject}: {text}"))

    def _separate(self, batch: _UnconfirmedBatch) -> None:
        """Publish a batch of which an id is known message by message.

        It was stored before, as a rule, and each is answered as a duplicate. Where the one before was another, because
        the handler answers differently each time, or had no batches yet, what is missing follows.
        """
        now_s = self._clock.monotonic()
        for message in batch.messages:
            block = header_block({MESSAGE_ID: message.message_id})
            size = len(message.payload) + len(block)
            self._bytes += size
            single = _Unconfirmed(batch.order, message.subject, message.payload, block, size, message.confirm, now_s)
            self._write(single, now_s)
        batch.confirm = _ignore
        self._finish(batch, None)

    def _finish(self, message: _Unconfirmed, error: BusError | None) -> None:
        self._bytes -= message.size
        if message is self._probe:
            self._probe = None
            if error is None:
                self._follow()
        if message.error is not None:
            self._troubled -= 1
            self._hold(self._troubled > 0)
        if self._waiting:
            self._wake_waiting()
        message.confirm(error)

    # --- repeating ---

    def _refuse(self, message: _Unconfirmed, error: BusError) -> None:
        """Keep a message that was refused, in its old place, and try the oldest one again after a while."""
        is_probe = message is self._probe
        if is_probe:
            self._probe = None
        now_s = self._clock.monotonic()
        if now_s - message.first_s >= self._give_up_s:
            self._finish(message, error)
            return
        if message.error is None:
            self._troubled += 1
        message.error = error
        if is_probe or not self._refused:
            self._refusals += 1
            backoff_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._refusals - 1, 10))
            self._next_probe_s = now_s + backoff_s * random.uniform(0.8, 1.2)
        bisect.insort(self._refused, message, key=attrgetter("order"))
        self._hold(True)

    def _follow(self) -> None:
        """The probe is stored: everything behind it follows, in order."""
        self._refusals = 0
        waiting, self._refused = self._refused, []
        now_s = self._clock.monotonic()
        for message in waiting:
            self._write_again(message, now_s)

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic()
            if self._connection.is_connected:
                self._find_overdue(now_s)
                self._send_probe(now_s)
            self._give_up(now_s)

    def _send_probe(self, now_s: float) -> None:
        if self._refused and self._probe is None and now_s >= self._next_probe_s:
            self._probe = self._refused.pop(0)
            self._write_again(self._probe, now_s)

    def _find_overdue(self, now_s: float) -> None:
        while self._sent:
            number = next(iter(self._sent))
            message = self._sent[number]
            if message.due_s > now_s:
                return
            del self._sent[number]
            self._refuse(message, BusUnavailableError(f"no PubAck for {message.subject} in {self._timeout_s:g} s"))

    def _give_up(self, now_s: float) -> None:
        """Give back what has waited too long: refused messages, and while NATS is away those without an answer."""
        too_old_s = now_s - self._give_up_s
        late = [message for message in self._refused if message.first_s <= too_old_s]
        if late:
            self._refused = [message for message in self._refused if message.first_s > too_old_s]
        if not self._connection.is_connected:
            unanswered = [number for number, message in self._sent.items() if message.first_s <= too_old_s]
            late += [self._sent.pop(number) for number in unanswered]
        for message in late:
            away = BusUnavailableError(f"NATS is away, {message.subject} is not confirmed")
            self._finish(message, message.error or away)

    def _hold(self, held: bool) -> None:
        if held == self._held:
            return
        self._held = held
        if held:
            log.warning("stream %s takes nothing now; trying again", self._stream, extra={"action": "hold"})
        else:
            log.info("stream %s takes messages again", self._stream, extra={"action": "resume"})
        if self._on_hold is not None:
            self._on_hold(held)


def _ignore(_: BusError | None) -> None:
    """Confirm nothing: each message of the batch does so itself."""
