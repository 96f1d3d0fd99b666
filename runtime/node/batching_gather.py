"""Messages on their way into a call of a batch handler: which go together, and when. Pure: no clock, no I/O."""

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import DecodeError
from runtime.node.context import Context
from runtime.node.work import Work
from runtime.spec.batching import BatchingSpec

# The wait shrinks to this share of the one asked for, at most.
LEAST_WAIT = 1 / 16


class Item:
    """One message, from its arrival to its own result.

    deadline_s: when its request's deadline is over (monotonic), infinite without one. result: resolved by whoever
    calls; cancelled once nobody waits for it.
    """

    __slots__ = ("arrived_s", "called", "context", "cost", "data", "deadline_s", "result", "work")

    def __init__(
        self, context: Context, work: Work, data: Any, *, cost: float, now_s: float, deadline_s: float
    ) -> None:
        self.context = context
        self.work = work
        self.data = data
        self.cost = cost
        self.arrived_s = now_s
        self.deadline_s = deadline_s
        self.called = False
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Limits:
    """What one call may take now: what the file or whoever retunes it says, and what memory has allowed."""

    def __init__(self, spec: BatchingSpec) -> None:
        self.spec = spec
        self.max_messages = spec.max_messages
        self.wait_s = spec.wait_s
        self.max_cost = math.inf if spec.max_cost is None else spec.max_cost
        self._afforded = spec.max_messages

    @property
    def messages(self) -> int:
        return min(self.max_messages, self._afforded)

    def out_of_memory(self, messages: int) -> None:
        """A call of so many messages was too much."""
        self._afforded = max(1, min(self._afforded, messages // 2))

    def fitted(self, messages: int) -> None:
        """A call of so many went well: after a shortage of memory, one more is tried."""
        if messages >= self._afforded < self.spec.max_messages:
            self._afforded += 1


class Batch:
    """Messages that will be handled by one call. goes_s: when it goes even if nothing more has come."""

    __slots__ = ("cost", "goes_s", "items", "limit")

    def __init__(self, limit: int) -> None:
        self.items: list[Item] = []
        self.limit = limit
        self.cost = 0.0
        self.goes_s = math.inf

    def takes(self, item: Item, limit: int, max_cost: float) -> bool:
        return len(self.items) < min(self.limit, limit) and (not self.items or self.cost + item.cost <= max_cost)

    def add(self, item: Item, limit: int, goes_s: float) -> None:
        self.items.append(item)
        self.limit = min(self.limit, limit)
        self.cost += item.cost
        self.goes_s = min(self.goes_s, goes_s)

    def is_full(self, max_cost: float) -> bool:
        return len(self.items) >= self.limit or self.cost >= max_cost


class Gathering:
    """The batch that is being filled, and those that are full and wait for a free call."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Batch | None = None
        self._full: deque[Batch] = deque()
        # Share of the wait: it halves when batches fill by themselves, and doubles back when they do not.
        self._share = 1.0

    @property
    def waiting(self) -> int:
        """Messages in no call yet."""
        return sum(len(batch.items) for batch in self._full) + (len(self._open.items) if self._open else 0)

    @property
    def goes_s(self) -> float:
        """When the open batch goes, infinite without one."""
        return self._open.goes_s if self._open else math.inf

    def add(self, item: Item, run_s: float) -> None:
        """Put a message where it fits, in order of arrival. run_s: how long a call is expected to take.

        Each time that a message comes again its largest batch is half as large, so that one that kills the process is
        soon alone.
        """
        limits = self._limits
        limit = max(1, limits.messages >> min(item.work.delivery.attempt - 1, 16))
        if self._open is not None and not self._open.takes(item, limit, limits.max_cost):
            self._close()
        if self._open is None:
            self._open = Batch(limits.messages)
        self._open.add(item, limit, min(item.arrived_s + limits.wait_s * self._share, item.deadline_s - run_s))
        if self._open.is_full(limits.max_cost):
            self._share = max(LEAST_WAIT, self._share / 2)
            self._close()

    def discard(self, item: Item) -> None:
        """Forget a message that nobody waits for any more."""
        for batch in (self._open, *self._full):
            if batch is not None and item in batch.items:
                batch.items.remove(item)
                batch.cost -= item.cost
        if self._open is not None and not self._open.items:
            self._open = None
        self._full = deque(batch for batch in self._full if batch.items)

    def take(self, now_s: float) -> Batch | None:
        """Return a batch whose time has come, the oldest first."""
        if self._full:
            return self._full.popleft()
        if self._open is None or now_s < self._open.goes_s:
            return None
        batch, self._open = self._open, None
        self._share = min(1.0, self._share * 2)
        return batch

    def hurry(self) -> None:
        """Nothing more comes: let go what is there, and from now on everything at once."""
        self._limits.wait_s = 0.0
        if self._open is not None:
            self._close()

    def _close(self) -> None:
        assert self._open is not None
        self._full.append(self._open)
        self._open = None


def cost_of(data: Any, path: str) -> float:
    """Return what a message costs: the number at `path`, or the length of the text, bytes or list there.

    Raises DecodeError where there is none of these.
    """
    value = data
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    if isinstance(value, (str, bytes, Sequence)):
        return float(len(value))
    raise DecodeError(f"no number and no text or list at '{path}', which says what the message costs", reason="payload")
