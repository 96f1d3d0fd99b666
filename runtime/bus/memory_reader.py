"""The client half of a durable pull consumer in memory: takers, the prefetch buffer and what is in hand."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from runtime.bus.base import ConsumerConfig, Delivery, ReaderClosed, StoredMessage
from runtime.bus.memory_consumer import MemoryConsumer
from runtime.clock import Clock, TimerHandle
from runtime.errors import BusError, NotFoundError

log = logging.getLogger(__name__)

# Seconds between two looks for a missing consumer, and until `start` gives up.
BIND_RETRY_S = 0.2
BIND_LIMIT_S = 30.0


class MemoryReader:
    """See `base.Reader`.

    find: returns the consumer, making it if this reader may; None while it is missing.
    """

    def __init__(self, config: ConsumerConfig, find: Callable[[], MemoryConsumer | None], clock: Clock) -> None:
        self._config = config
        self._find = find
        self._clock = clock
        self._prefetch = 0
        self._held = False
        # Why `take` raises; None while there may be further deliveries.
        self._over: BusError | None = None
        self._consumer: MemoryConsumer | None = None
        self._takers: deque[asyncio.Future[Delivery]] = deque()
        self._buffer: deque[Delivery] = deque()
        self._in_hand: dict[int, Delivery] = {}
        self._ticker: TimerHandle | None = None

    @property
    def prefetch(self) -> int:
        return self._prefetch

    @prefetch.setter
    def prefetch(self, messages: int) -> None:
        self._prefetch = messages
        self._ask()

    @property
    def in_hand(self) -> int:
        return len(self._in_hand)

    @property
    def wanted(self) -> int:
        """Messages that this reader can use now: one per waiting taker, and the free part of the prefetch."""
        if self._held or self._over is not None:
            return 0
        return max(0, len(self._takers) + self._prefetch - len(self._buffer))

    # --- finding the consumer ---

    async def start(self) -> None:
        deadline_s = self._clock.monotonic() + BIND_LIMIT_S
        while not self._bind():
            if self._clock.monotonic() >= deadline_s:
                raise NotFoundError(f"stream {self._config.stream} has no consumer {self._config.durable}")
            await self._clock.sleep(BIND_RETRY_S)

    def _bind(self) -> bool:
        self._consumer = self._find()
        if self._consumer is None:
            return False
        self._consumer.add_reader(self)
        return True

    def consumer_deleted(self) -> None:
        """Look for the consumer until it is there again; deliveries in hand go on."""
        log.error("consumer %s of stream %s was deleted; looking for it", self._config.durable, self._config.stream)
        self._consumer = None
        self._clock.call_later(BIND_RETRY_S, self._bind_again)

    def _bind_again(self) -> None:
        if self._over is None and not self._bind():
            self._clock.call_later(BIND_RETRY_S, self._bind_again)

    # --- taking ---

    async def take(self) -> Delivery:
        if self._over is not None:
            raise self._over
        if self._buffer:
            delivery = self._buffer.popleft()
            self._ask()
            return delivery
        taker: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._ask()
        try:
            return await taker
        except asyncio.CancelledError:
            self._forget_taker(taker)
            raise

    def _forget_taker(self, taker: asyncio.Future[Delivery]) -> None:
        """Keep the delivery of a taker that was cancelled after it was served, before it ran."""
        if taker in self._takers:
            self._takers.remove(taker)
        elif not taker.cancelled() and taker.exception() is None:
            self._hand_over(taker.result(), self._buffer.appendleft)

    def receive(self, message: StoredMessage, *, attempt: int, pending: int, reply: str) -> None:
        """Called by the consumer. A message that is in hand already gets its new reply and is not handed out again."""
        now_s = self._clock.monotonic()
        known = self._in_hand.get(message.sequence)
        if known is not None:
            known.reply = reply
            known.attempt = attempt
            known.kept_alive_s = now_s
            return
        delivery = Delivery(
            message.subject, message.data, message.headers, message.sequence, attempt,
            message.time_ns, pending, reply, now_s,
        )  # fmt: skip
        self._in_hand[message.sequence] = delivery
        self._start_ticker()
        self._hand_over(delivery, self._buffer.append)

    def _hand_over(self, delivery: Delivery, keep: Callable[[Delivery], None]) -> None:
        if self._over is not None:
            self.nak(delivery, 0.0)
            return
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(delivery)
                return
        keep(delivery)

    def hold(self, held: bool) -> None:
        self._held = held
        self._ask()

    def _ask(self) -> None:
        if self._consumer is not None and self.wanted > 0:
            self._consumer.wake()

    # --- settling ---

    def ack(self, delivery: Delivery) -> None:
        self._settle(delivery, lambda consumer: consumer.settle(delivery.sequence))

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        self._settle(delivery, lambda consumer: consumer.nak(delivery.sequence, delay_s))

    def term(self, delivery: Delivery) -> None:
        self._settle(delivery, lambda consumer: consumer.settle(delivery.sequence))

    def _settle(self, delivery: Delivery, write: Callable[[MemoryConsumer], None]) -> None:
        if delivery.settled:
            return
        delivery.settled = True
        self._in_hand.pop(delivery.sequence, None)
        if self._consumer is not None:
            write(self._consumer)

    def keep_alive(self, delivery: Delivery) -> None:
        if delivery.settled:
            return
        delivery.kept_alive_s = self._clock.monotonic()
        if self._consumer is not None:
            self._consumer.keep_alive(delivery.sequence)

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = self._clock.call_later(self._config.ack_wait_s / 3, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        for delivery in self._in_hand.values():
            self.keep_alive(delivery)
        if self._in_hand:
            self._start_ticker()

    # --- ending ---

    async def drain(self) -> None:
        self._end(ReaderClosed(f"the reader of {self._config.durable} was drained"))
        while self._buffer:
            self.nak(self._buffer.popleft(), 0.0)

    async def close(self) -> None:
        await self.drain()
        for delivery in list(self._in_hand.values()):
            self.nak(delivery, 0.0)
        self._forget_consumer()

    def disconnect(self, why: BusError) -> None:
        """Lose the connection for good: nothing is settled, so what is in hand comes again after the ack wait."""
        self._end(why)
        self._buffer.clear()
        self._in_hand.clear()
        self._forget_consumer()

    def _end(self, why: BusError) -> None:
        self._over = self._over or why
        if self._consumer is not None:
            self._consumer.remove_reader(self)
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_exception(self._over)

    def _forget_consumer(self) -> None:
        self._consumer = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
