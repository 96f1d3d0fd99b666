"""The way of a message from one node of a fused chain to the next, inside of their process.

    FusedOutputs of one node ──put──▶ Link ──take──▶ runner of the next ──settle──▶ the output is confirmed

Each side sees what it sees of a bus: a publisher that confirms, a reader that delivers. An output is confirmed when the
next node has settled it, with all that came of it. So the delivery that the chain has taken from the stream is
acknowledged last, once, and a process that dies before leaves nothing undone.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from runtime import log as logs
from runtime.bus.base import Delivery, Reader, ReaderClosed
from runtime.clock import Clock
from runtime.errors import BusError, BusUnavailableError
from runtime.node.handed import Handed
from runtime.node.metrics import NodeMetrics
from runtime.spec import names

# Messages, and their bytes, that a node may have got from the one before and not settled, those that wait for another
# attempt included. Beyond it the one before waits, and at last the chain takes no more.
MAX_HANDED = 1_000
MAX_HANDED_BYTES = 64 * 1024 * 1024
# Of these, those that no slot has: no round trip has to be hidden, and what lies longer leaves the processor's caches.
MAX_WAITING = 64
# Mean seconds of a handler below which a message is handled in the slot of the node before: it is free again at once.
QUICK_S = 0.0005

# `Runner.work_on`: message, its reader, and the slot to work in.
WorkOn: TypeAlias = Callable[[Delivery, Reader, asyncio.Task[None]], Awaitable[None]]


class ChainReader:
    """The reader of a chain's first node; what is redriven to another one goes to its link. See `bus.base.Reader`."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        # By node.
        self.links: dict[str, Link] = {}
        self._settled = asyncio.Event()

    @property
    def prefetch(self) -> int:
        return self._stream.prefetch

    @prefetch.setter
    def prefetch(self, messages: int) -> None:
        self._stream.prefetch = messages

    @property
    def in_hand(self) -> int:
        return self._stream.in_hand

    async def start(self) -> None:
        await self._stream.start()

    async def take(self) -> Delivery:
        while True:
            delivery = await self._stream.take()
            link = self.links.get(names.redriven_node(delivery.subject))
            if link is None:
                return delivery
            link.offer(delivery)

    def ack(self, delivery: Delivery) -> None:
        self._stream.ack(delivery)
        self._settled.set()

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        self._stream.nak(delivery, delay_s)
        self._settled.set()

    def term(self, delivery: Delivery) -> None:
        self._stream.term(delivery)
        self._settled.set()

    def keep_alive(self, delivery: Delivery) -> None:
        self._stream.keep_alive(delivery)

    def hold(self, held: bool) -> None:
        self._stream.hold(held)

    async def drain(self) -> None:
        await self._stream.drain()

    async def close(self) -> None:
        await self._stream.close()

    async def finish(self, limit_s: float) -> None:
        """Take no more, and return when the chain has settled all that it took, or `limit_s` seconds later."""
        await self.drain()
        for link in self.links.values():
            link.give_up_retries()
        try:
            async with asyncio.timeout(limit_s):
                while self.in_hand:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:  # what is left is given back by whoever stops the nodes
            return


class Link:
    """The reader of a node behind the first one of its chain. See `bus.base.Reader`.

    A message that fails waits here for its next attempt, and the chain's delivery stays in hand meanwhile. What was
    redriven is settled in the stream.
    """

    def __init__(self, stream: Reader, clock: Clock) -> None:
        # Set by the node's runner: messages beyond its free slots that are worth having at hand.
        self.prefetch = 0
        # The node that reads it, once that is known.
        self._node = ""
        self._work_on: WorkOn | None = None
        self._metrics: NodeMetrics | None = None
        self._stream = stream
        self._clock = clock
        self._waiting: deque[Delivery] = deque()
        self._takers: deque[asyncio.Future[Delivery]] = deque()
        self._in_hand = 0
        self._in_hand_bytes = 0
        self._retries: set[Handed] = set()
        self._stopping = False
        self._over: BusError | None = None
        # Whether somebody waits to hand over, and what he waits for.
        self._is_awaited = False
        self._room = asyncio.Event()

    @property
    def in_hand(self) -> int:
        return self._in_hand

    async def start(self) -> None:
        """There is nothing to find."""

    def connect(self, node: str, work_on: WorkOn, metrics: NodeMetrics) -> None:
        """Tell whose reader this is: from now on it may get messages past `take`."""
        self._node = node
        self._work_on = work_on
        self._metrics = metrics

    # --- handing over ---

    @property
    def _is_full(self) -> bool:
        return self._in_hand >= MAX_HANDED or self._in_hand_bytes >= MAX_HANDED_BYTES

    def hand(self, handed: Handed) -> bool:
        """Hand over one message if there is room for it, and say whether."""
        if self._over is not None or self._is_full:
            return False
        if len(self._waiting) >= min(self.prefetch, MAX_WAITING) and not self._takers:
            return False
        self._count(handed)
        self.offer(handed)
        return True

    async def put(self, handed: Handed) -> None:
        """The same once there is room. Raises BusUnavailableError once closed; nothing was handed over then."""
        while not self.hand(handed):
            if self._over is not None:
                raise BusUnavailableError("the next node of the chain has stopped")
            self._is_awaited = True
            self._room.clear()
            await self._room.wait()

    def lend(self) -> asyncio.Future[Delivery] | None:
        """Return the place of a slot that waits, for a call of `handle`; None where the node has to be left apart.

        The slot takes nothing until its place is given back, so that the node handles no more at once than it says.
        """
        if not self._takers or self._metrics is None or self._metrics.mean_s >= QUICK_S or self._is_full:
            return None
        return self._takers.pop()

    async def handle(self, handed: Handed, slot: asyncio.Task[None], place: asyncio.Future[Delivery]) -> None:
        """Let the node handle a message at once, in the slot of the one before."""
        assert self._work_on is not None, "connected before a place is lent"
        self._count(handed)
        before = logs.NODE.set(self._node)
        try:
            await self._work_on(handed, self, slot)
        finally:
            logs.NODE.reset(before)
            self.give_back(place)

    def give_back(self, place: asyncio.Future[Delivery]) -> None:
        """Let the slot that was lent take again."""
        if place.done():  # cancelled meanwhile
            return
        if self._over is not None:
            place.set_exception(self._over)
        elif self._waiting:
            place.set_result(self._waiting.popleft())
        else:
            self._takers.append(place)
            if self._is_awaited:
                self._tell_room()

    def _count(self, handed: Handed) -> None:
        self._in_hand += 1
        self._in_hand_bytes += handed.size_bytes

    def offer(self, delivery: Delivery) -> None:
        """Give a message to the next slot that is free."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(delivery)
                return
        self._waiting.append(delivery)

    async def take(self) -> Delivery:
        if self._over is not None:
            raise self._over
        if self._is_awaited:
            self._tell_room()
        if self._waiting:
            return self._waiting.popleft()
        taker: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and taker.exception() is None:  # served before it could run
                self.offer(taker.result())
            raise

    # --- settling ---

    def ack(self, delivery: Delivery) -> None:
        if not isinstance(delivery, Handed):
            self._stream.ack(delivery)
        elif not delivery.settled:
            self._settle(delivery)
            delivery.confirm(None)

    def term(self, delivery: Delivery) -> None:
        if not isinstance(delivery, Handed):
            self._stream.term(delivery)
        else:
            self.ack(delivery)

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        if not isinstance(delivery, Handed):
            self._stream.nak(delivery, delay_s)
        elif not delivery.settled:
            self._settle(delivery)
            if self._stopping:
                delivery.confirm(BusUnavailableError("the process stops before the next attempt"))
            else:
                self._try_again(delivery, delay_s)

    def _settle(self, handed: Handed) -> None:
        handed.settled = True
        self._in_hand -= 1
        self._in_hand_bytes -= handed.size_bytes
        if self._is_awaited:
            self._tell_room()

    def _tell_room(self) -> None:
        self._is_awaited = False
        self._room.set()

    def _try_again(self, handed: Handed, delay_s: float) -> None:
        again = handed.again()
        self._count(again)
        self._retries.add(again)
        self._clock.call_later(delay_s, partial(self._offer_again, again))

    def _offer_again(self, handed: Handed) -> None:
        if handed in self._retries:  # otherwise it was given up meanwhile
            self._retries.discard(handed)
            self.offer(handed)

    def keep_alive(self, delivery: Delivery) -> None:
        """What was handed over needs nothing: the chain's own delivery is kept alive as long as it is in hand."""
        if not isinstance(delivery, Handed):
            self._stream.keep_alive(delivery)

    def hold(self, held: bool) -> None:
        """Where one node of the chain cannot publish, the chain takes no more."""
        self._stream.hold(held)

    # --- ending ---

    def give_up_retries(self) -> None:
        """Let what waits for its next attempt go back to the stream, now and from now on: the process stops."""
        self._stopping = True
        for delivery in list(self._retries):
            self._retries.discard(delivery)
            self.nak(delivery, 0.0)

    async def drain(self) -> None:
        self._over = self._over or ReaderClosed("the link is drained")
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_exception(self._over)
        self._room.set()

    async def close(self) -> None:
        await self.drain()
        self._stopping = True
