"""The way of a message from one node of a fused chain to the next, inside of their process.

    FusedOutputs of one node ──put──▶ Link ──take──▶ runner of the next ──settle──▶ the output is confirmed

Each side sees what it sees of a bus: a publisher that confirms, a reader that delivers. An output is confirmed when the
next node has settled it, with all that came of it. So the delivery that the chain has taken from the stream is
acknowledged last, once, and a process that dies before leaves nothing undone.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from runtime.bus.base import Confirm, Delivery, Reader, ReaderClosed
from runtime.clock import Clock
from runtime.errors import BusError, BusUnavailableError
from runtime.message import MessageType
from runtime.node.work import Outputs, Work
from runtime.spec import hops, names
from runtime.spec.node import HandOver

# Messages, and their bytes, that a node may have got from the one before and not settled, those that wait for another
# attempt included. Beyond it the one before waits, and at last the chain takes no more.
MAX_HANDED = 1_000
MAX_HANDED_BYTES = 64 * 1024 * 1024

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_EARLY = (MessageType.EARLY_REPLY, MessageType.EARLY_EXIT)


class ChainReader:
    """The reader of a chain's first node; what is redriven to another one goes to its link. See `bus.base.Reader`."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._links: dict[str, Link] = {}
        self._settled = asyncio.Event()

    def add(self, node: str, link: "Link") -> None:
        self._links[node] = link

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
            link = self._links.get(names.redriven_node(delivery.subject))
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
        for link in self._links.values():
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
        self._stream = stream
        self._clock = clock
        self._waiting: deque[Delivery] = deque()
        self._takers: deque[asyncio.Future[Delivery]] = deque()
        self._handed: dict[Delivery, Confirm] = {}
        self._handed_bytes = 0
        self._retries: set[Delivery] = set()
        self._stopping = False
        self._over: BusError | None = None
        self._room = asyncio.Event()

    @property
    def in_hand(self) -> int:
        return len(self._handed)

    async def start(self) -> None:
        """There is nothing to find."""

    # --- handing over ---

    async def put(self, delivery: Delivery, confirm: Confirm) -> None:
        """Hand over one message; returns once there is room for it. `confirm`: called once, as by a publisher.

        Raises BusUnavailableError once closed; `confirm` is not called then.
        """
        while self._over is None and self._is_full():
            self._room.clear()
            await self._room.wait()
        if self._over is not None:
            raise BusUnavailableError("the next node of the chain has stopped")
        self._handed[delivery] = confirm
        self._handed_bytes += len(delivery.data)
        self.offer(delivery)

    def _is_full(self) -> bool:
        if len(self._handed) >= MAX_HANDED or self._handed_bytes >= MAX_HANDED_BYTES:
            return True
        return len(self._waiting) >= self.prefetch and not self._takers

    def offer(self, delivery: Delivery) -> None:
        """Give a message to the next slot that is free."""
        self._retries.discard(delivery)
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(delivery)
                return
        self._waiting.append(delivery)

    async def take(self) -> Delivery:
        if self._over is not None:
            raise self._over
        self._room.set()
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
        confirm = self._settle(delivery)
        if confirm is None:
            self._stream.ack(delivery)
        else:
            confirm(None)

    def term(self, delivery: Delivery) -> None:
        confirm = self._settle(delivery)
        if confirm is None:
            self._stream.term(delivery)
        else:
            confirm(None)

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        confirm = self._settle(delivery)
        if confirm is None:
            self._stream.nak(delivery, delay_s)
        elif self._stopping:
            confirm(BusUnavailableError("the process stops before the next attempt"))
        else:
            self._try_again(delivery, confirm, delay_s)

    def _settle(self, delivery: Delivery) -> Confirm | None:
        """Return who is to hear of it; None for a delivery of the stream, or one that is settled."""
        confirm = self._handed.pop(delivery, None)
        if confirm is not None:
            delivery.settled = True
            self._handed_bytes -= len(delivery.data)
            self._room.set()
        return confirm

    def _try_again(self, delivery: Delivery, confirm: Confirm, delay_s: float) -> None:
        again = Delivery(
            delivery.subject, delivery.data, delivery.headers, delivery.sequence, delivery.attempt + 1,
            delivery.time_ns, 0, "", delivery.kept_alive_s,
        )  # fmt: skip
        self._handed[again] = confirm
        self._handed_bytes += len(again.data)
        self._retries.add(again)
        self._clock.call_later(delay_s, partial(self._offer_again, again))

    def _offer_again(self, delivery: Delivery) -> None:
        if delivery in self._retries:  # otherwise it was given up meanwhile
            self.offer(delivery)

    def keep_alive(self, delivery: Delivery) -> None:
        """What was handed over needs nothing: the chain's own delivery is kept alive as long as it is in hand."""
        if delivery not in self._handed:
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
        for delivery in list(self._handed):
            self.nak(delivery, 0.0)


class FusedOutputs(Outputs):
    """The way out of a node of a chain: its plain output goes to the next node, all others to the stream."""

    _link: Link | None = None
    _handed: frozenset[str] = frozenset()
    _stored = False

    def connect(self, link: Link, hand_over: HandOver) -> None:
        """Hand the plain output over to `link` from now on."""
        self._link = link
        self._handed = frozenset(hand_over.subjects)
        self._stored = hand_over.stored

    async def _claim(self, subject: str, data: bytes, kind: MessageType, message_id: str, *, is_answer: bool) -> bytes:
        if self._link is not None and subject in self._handed and not self._stored and kind not in _EARLY:
            return data  # which does not leave this process
        return await super()._claim(subject, data, kind, message_id, is_answer=is_answer)

    async def _hand_over(
        self, work: Work, subject: str, data: bytes, kind: MessageType, message_id: str, confirm: Confirm
    ) -> None:
        # Only what came through a link has passed nodes of this chain; the stream's may tell of those of another one.
        passed = (work.delivery.headers or _NO_HEADERS).get(names.HOPS_HEADER, "") if work.path else ""
        headers = {names.HOPS_HEADER: passed} if passed else None
        publish = partial(self._publisher.publish, subject, data, message_id=message_id, headers=headers)
        if self._link is None or subject not in self._handed:
            await publish(confirm=confirm)
            return
        delivery = self._delivery(work, data, message_id, passed)
        # Somebody else waits for it, or its sender until it is stored: not until the next node has a free slot.
        if not self._stored and kind not in _EARLY:
            await self._link.put(delivery, confirm)
        elif kind is MessageType.ERROR:  # its message is ended once it is confirmed
            confirm = _once_both(confirm)
            await publish(confirm=confirm)
            await self._link.put(delivery, confirm)
        else:
            await publish(confirm=confirm)
            work.outstanding += 1
            try:
                await self._link.put(delivery, work.confirmed)
            except BaseException:
                work.outstanding -= 1
                raise

    def _delivery(self, work: Work, data: bytes, message_id: str, passed: str) -> Delivery:
        """Return the input of the next node, which is told in its headers what a sequence of its own would tell."""
        taken = work.delivery
        headers = {
            names.ORIGIN_HEADER: hops.place(work.origin, hops.path_behind(message_id)),
            names.REDRIVE_HEADER: "0",
            names.HOPS_HEADER: hops.add_hop(passed, self.node, int(work.run_s * 1e6)),
        }
        return Delivery(
            self._subject, data, headers, taken.sequence, taken.attempt, taken.time_ns, 0, "", taken.kept_alive_s
        )


def _once_both(confirm: Confirm) -> Confirm:
    """Return a confirm for two, that tells the first error."""
    told: list[BusError | None] = []

    def confirmed(error: BusError | None) -> None:
        told.append(error)
        if len(told) == 2:
            confirm(next((each for each in told if each is not None), None))

    return confirmed
