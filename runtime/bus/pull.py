"""The pull loop: one reader of one durable consumer, after the state table of the design page on NATS.

Messages arrive with their stream's subject, statuses with the subject of the request that they answer. So the reader
subscribes to `<inbox>.*`, request n replies to `<inbox>.<n>`, and every status is charged to its own request. Credit is
exact: it is what the takers and the prefetch can use, less what is buffered and what open requests may still bring.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum

import nats.errors

from runtime.bus.base import ConsumerConfig, Delivery, Headers, ReaderClosed
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectSubscription
from runtime.bus.refusals import describe
from runtime.bus.requests import OpenRequests
from runtime.bus.topology import Topology
from runtime.clock import Clock
from runtime.errors import AccessError, BusClosedError, BusError, NotFoundError

log = logging.getLogger(__name__)

# A request lives 30 s; a heartbeat comes every 2 s (it must be under half of that) and is missed after two: a request
# that was lost with a server is given up within the time in which the others elect a leader.
REQUEST_LIFE_S = 30.0
HEARTBEAT_S = 2.0
SILENCE_S = 2 * HEARTBEAT_S
# Requests open at once: one that is being served and one that follows it without a gap.
MAX_REQUESTS = 2
# Largest request; more only makes one replica hoard.
MAX_BATCH = 1_000
# Bytes of a prefetch, by the mean size of the latest messages: the newest one's weight, what each has beside its data.
PREFETCH_BYTES = 16 * 1024 * 1024
SIZE_WEIGHT = 0.1
OVERHEAD_BYTES = 256
# Seconds between looks at silence and at what has to be kept alive.
WATCH_S = 1.0
# How long a planned consumer may be missing at the start, and the delays between looks.
MISSING_LIMIT_S = 30.0
MISSING_FIRST_S, MISSING_MAX_S = 0.2, 1.0
# How long one look waits for its answer: while a leader is being elected there is none, however long it waits.
LOOK_TIMEOUT_S = 1.0

ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"
IN_PROGRESS = b"+WPI"


class PullState(StrEnum):
    """Where the loop is; FULL (no credit) and HELD are conditions of PULLING."""

    BINDING = "binding"
    PULLING = "pulling"
    SUSPECT = "suspect"
    DISCONNECTED = "disconnected"
    GONE = "gone"
    DRAINING = "draining"
    CLOSED = "closed"


class NatsReader:
    """See `bus.base.Reader`."""

    def __init__(
        self, connection: Connection, topology: Topology, config: ConsumerConfig, clock: Clock, *, create: bool
    ) -> None:
        self.prefetch = 0
        # Of the latest messages, as they come over the wire.
        self._mean_bytes = float(OVERHEAD_BYTES)
        self.state = PullState.BINDING
        self._connection = connection
        self._topology = topology
        self._config = config
        self._clock = clock
        self._create = create
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{config.stream}.{config.durable}"
        self._ack_wait_s = config.ack_wait_s
        self._inbox = ""
        self._subscription: DirectSubscription | None = None
        self._buffer: deque[Delivery] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._unsettled: dict[int, Delivery] = {}
        self._requests = OpenRequests()
        self._life_s = 0.0
        self._not_before_s = 0.0
        self._held = False
        self._gone = asyncio.Event()
        self._failure: BusError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_listening: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return (
            f"<NatsReader {self._config.stream}/{self._config.durable} {self.state} buffered={len(self._buffer)}"
            f" in_hand={self.in_hand} asked={self._requests.asked}>"
        )

    @property
    def in_hand(self) -> int:
        return len(self._unsettled)

    async def start(self) -> None:
        await self._bind(MISSING_LIMIT_S)
        self._stop_listening = self._connection.listen(
            on_disconnect=self._on_disconnect, on_reconnect=self._on_reconnect
        )
        name = f"reader {self._config.durable}"
        self._tasks = [
            asyncio.create_task(self._watch(), name=f"{name} watch"),
            asyncio.create_task(self._rebind(), name=f"{name} rebind"),
            asyncio.create_task(self._end_with_connection(), name=f"{name} end"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)

    # --- taking ---

    async def take(self) -> Delivery:
        while True:
            if self._buffer:
                delivery = self._buffer.popleft()
                self._ask()
                return delivery
            if self._failure is not None:
                raise self._failure
            await self._wait_for_delivery()

    async def _wait_for_delivery(self) -> None:
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._ask()
        try:
            await taker
        except asyncio.CancelledError:
            if taker in self._takers:
                self._takers.remove(taker)
            elif self._buffer:  # it was woken and cannot take: somebody else has to
                self._wake_taker()
            raise

    def _wake_taker(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    # --- settling ---

    def ack(self, delivery: Delivery) -> None:
        self._settle(delivery, ACK)

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        # Without a delay the message goes before those that were never delivered; `"delay": 0` puts it behind them.
        self._settle(delivery, b'-NAK {"delay": %d}' % round(delay_s * 1e9) if delay_s > 0 else NAK)

    def term(self, delivery: Delivery) -> None:
        self._settle(delivery, TERM)

    def keep_alive(self, delivery: Delivery) -> None:
        if not delivery.settled:
            delivery.kept_alive_s = self._clock.monotonic()
            self._connection.write(delivery.reply, IN_PROGRESS)

    def _settle(self, delivery: Delivery, answer: bytes) -> None:
        if delivery.settled:
            return
        delivery.settled = True
        del self._unsettled[delivery.sequence]
        self._connection.write(delivery.reply, answer)

    # --- asking ---

    def hold(self, held: bool) -> None:
        self._held = held
        self._ask()

    def _ask(self) -> None:
        """Open a request when the credit is worth one: half the window, or any with none open."""
        # Beyond 64 MiB on their way to it the server closes a connection, as that of a slow consumer.
        window = len(self._takers) + min(self.prefetch, int(PREFETCH_BYTES // self._mean_bytes))
        credit = window - len(self._buffer) - self._requests.asked
        if credit <= 0 or (self._requests.count and credit * 2 < window):
            return
        if self.state is not PullState.PULLING or self._held or self._requests.count >= MAX_REQUESTS:
            return
        if self._clock.monotonic() < self._not_before_s:
            return
        batch = min(credit, MAX_BATCH)
        number = self._requests.open(batch)
        if self._requests.count == 1:
            self._life_s = self._clock.monotonic()
        body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            batch,
            int(REQUEST_LIFE_S * 1e9),
            int(HEARTBEAT_S * 1e9),
        )
        self._connection.write(self._next_subject, body, f"{self._inbox}.{number}")

    def _back_off(self, seconds: float) -> None:
        delay_s = seconds * random.uniform(0.8, 1.2)
        self._not_before_s = self._clock.monotonic() + delay_s
        self._clock.call_later(delay_s + 0.001, self._ask)

    # --- arriving ---

    def _on_message(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        self._life_s = now_s = self._clock.monotonic()
        if subject.startswith(self._inbox):
            self._on_status(int(subject[len(self._inbox) + 1 :]), headers or {})
            return
        self._requests.charge()
        self._mean_bytes += (len(data) + OVERHEAD_BYTES - self._mean_bytes) * SIZE_WEIGHT
        delivery = read_delivery(subject, reply, data, headers, now_s)
        known = self._unsettled.get(delivery.sequence)
        if known is not None:  # it still runs here: not started twice, but settled under its newest reply
            known.reply = delivery.reply
            known.attempt = delivery.attempt
            known.kept_alive_s = now_s
        elif self.state in (PullState.DRAINING, PullState.CLOSED):
            self._connection.write(delivery.reply, NAK)
        else:
            self._unsettled[delivery.sequence] = delivery
            self._buffer.append(delivery)
            if self._takers:
                self._wake_taker()
        if not self._requests.count:
            self._ask()

    def _on_status(self, number: int, headers: Headers) -> None:
        """The one place that decides which status ends the loop and which is passing."""
        status = headers.get("Status", "")[:3]
        text = headers.get("Description", "").lower()
        if status == "100":
            return
        self._requests.end(number)
        if status in ("404", "408"):
            self._ask()
        elif status == "409" and "consumer deleted" in text:
            self._lose("it was deleted")
        elif status == "409" and "push based" in text:
            self._fail(BusError(f"consumer {self._config.durable} is push based; delete it, ours are pulled"))
        elif status == "409" and ("shutdown" in text or "leadership" in text):
            self._back_off(0.1)
        elif status == "409":
            log.warning("consumer %s refuses a request: %s", self._config.durable, text, extra={"action": "pull"})
            self._back_off(1.0)
        elif status == "503":
            self._lose("nobody answers for it")
        else:
            log.error("consumer %s answers %s %s", self._config.durable, status, text, extra={"action": "pull"})
            self._back_off(random.uniform(1.0, 5.0))

    # --- states ---

    async def _bind(self, limit_s: float) -> None:
        """Find the consumer (or make it) and subscribe a fresh inbox. Raises NotFoundError after `limit_s`."""
        self.state = PullState.BINDING
        await self._find_consumer(limit_s)
        self._requests.forget()
        if self._subscription is not None:
            await self._unsubscribe()
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._life_s = self._clock.monotonic()
        self.state = PullState.PULLING
        self._ask()

    async def _find_consumer(self, limit_s: float) -> None:
        started_s = self._clock.monotonic()
        delay_s = MISSING_FIRST_S
        while True:
            try:
                if self._create:
                    await self._topology.create_consumer_if_missing(self._config)
                self._ack_wait_s = await self._look_up()
                return
            except (BusClosedError, AccessError):
                raise
            except BusError as error:
                if self._clock.monotonic() - started_s >= limit_s:
                    name = f"consumer {self._config.durable} of stream {self._config.stream}"
                    raise NotFoundError(
                        f"{name} is missing for {limit_s:g} s: {error}; is the manager running?"
                    ) from error
                if not isinstance(error, NotFoundError):  # there is no leader: it has waited for its answer already
                    delay_s = MISSING_FIRST_S
            await self._clock.sleep(delay_s * random.uniform(0.8, 1.2))
            delay_s = min(delay_s * 2, MISSING_MAX_S)

    async def _look_up(self) -> float:
        """Return the consumer's ack wait in seconds. Raises NotFoundError, BusUnavailableError."""
        timeout_s = min(LOOK_TIMEOUT_S, self._connection.request_timeout_s)
        return await self._topology.ack_wait_s(self._config.stream, self._config.durable, timeout_s)

    def _lose(self, why: str) -> None:
        """Enter GONE: what runs goes on, and the consumer is looked for until it is back."""
        if self.state is not PullState.PULLING:
            return
        self.state = PullState.GONE
        self._requests.forget()
        log.error("consumer %s is gone: %s; looking for it", self._config.durable, why, extra={"action": "gone"})
        self._gone.set()

    async def _rebind(self) -> None:
        """Leave GONE: find the consumer, however long that takes and whatever comes in between."""
        while True:
            await self._gone.wait()
            try:
                await self._bind(float("inf"))
            except BusClosedError:
                raise
            except BusError as error:  # the server went away between its answer and the subscription
                log.warning("consumer %s cannot be bound: %s", self._config.durable, error, extra={"action": "unbound"})
                await self._clock.sleep(MISSING_FIRST_S)
                continue
            self._gone.clear()
            log.info("consumer %s is back", self._config.durable, extra={"action": "bound"})

    def _on_disconnect(self) -> None:
        if self.state is PullState.PULLING:
            self.state = PullState.DISCONNECTED
        self._requests.forget()

    def _on_reconnect(self) -> None:
        # What lies in the buffer for too long is about to be delivered to somebody else.
        too_old_s = self._clock.monotonic() - self._ack_wait_s * 2 / 3
        for delivery in [late for late in self._buffer if late.kept_alive_s < too_old_s]:
            self._buffer.remove(delivery)
            delivery.settled = True
            del self._unsettled[delivery.sequence]
        if self.state is PullState.DISCONNECTED:
            self.state = PullState.PULLING
        self._life_s = self._clock.monotonic()
        self._ask()

    async def _watch(self) -> None:
        """Keep alive what is in hand, and notice a server that is silent."""
        while True:
            await self._clock.sleep(min(WATCH_S, self._ack_wait_s / 6))
            now_s = self._clock.monotonic()
            if self._connection.is_connected:
                for delivery in list(self._unsettled.values()):
                    if now_s - delivery.kept_alive_s >= self._ack_wait_s / 3:
                        self.keep_alive(delivery)
            if self.state is PullState.PULLING and self._requests.count and now_s - self._life_s > SILENCE_S:
                await self._suspect()
            self._ask()

    async def _suspect(self) -> None:
        """No sign of life while requests are open: ask for the consumer, and go by the answer."""
        self.state = PullState.SUSPECT
        self._requests.forget()
        log.warning(
            "no sign of life from consumer %s for %g s", self._config.durable, SILENCE_S, extra={"action": "silent"}
        )
        missing = False
        try:
            await self._look_up()
        except NotFoundError:
            missing = True
        except BusError as error:
            log.warning("consumer %s: %s", self._config.durable, error)
            # A server that is cut off from its cluster is alive and will not answer: the others may.
            await self._connection.move()
        if self.state is not PullState.SUSPECT:  # drained meanwhile, and to stay so
            return
        self.state = PullState.PULLING
        self._life_s = self._clock.monotonic()
        if missing:
            self._lose("the server does not know it")

    async def _end_with_connection(self) -> None:
        await self._connection.closed.wait()
        self._fail(BusClosedError("the connection to NATS is closed"))

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s has died", task.get_name(), exc_info=error, extra={"action": "died"})
            self._fail(error if isinstance(error, BusError) else BusError(f"{task.get_name()} has died: {error!r}"))

    def _fail(self, error: BusError) -> None:
        """End every `take`, now and later, with `error`."""
        self._failure = error
        while self._takers:
            self._wake_taker()

    # --- ending ---

    async def drain(self) -> None:
        if self.state in (PullState.DRAINING, PullState.CLOSED):
            return
        self.state = PullState.DRAINING
        self._requests.forget()
        for task in self._tasks[1:]:  # the watch goes on: it keeps alive what is in hand
            task.cancel()
        while self._buffer:
            self.nak(self._buffer.popleft(), 0.0)
        self._fail(ReaderClosed(f"the reader of {self._config.durable} is drained"))
        if self._subscription is not None:
            await self._unsubscribe()

    async def close(self) -> None:
        await self.drain()
        self.state = PullState.CLOSED
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for delivery in list(self._unsettled.values()):
            self.nak(delivery, 0.0)

    async def _unsubscribe(self) -> None:
        """End the subscription; messages that are under way still arrive, and are given back."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        try:
            async with asyncio.timeout(self._connection.request_timeout_s):
                await subscription.drain()
        except (nats.errors.Error, TimeoutError, OSError) as error:
            log.debug("unsubscribing %s: %s", self._config.durable, describe(error))


def read_delivery(subject: str, reply: str, data: bytes, headers: Headers | None, now_s: float) -> Delivery:
    """Return a message that a consumer delivered; everything about it stands in its reply subject.

    9 tokens: $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>; 12 with a domain,
    an account and a random token.
    """
    tokens = reply.split(".")
    shift = 0 if len(tokens) < 11 else 2
    return Delivery(
        subject,
        data,
        headers,
        int(tokens[5 + shift]),
        int(tokens[4 + shift]),
        int(tokens[7 + shift]),
        int(tokens[8 + shift]),
        reply,
        now_s,
    )
