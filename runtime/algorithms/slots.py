"""The calls of one algorithm: some run, some wait, more are refused; each is answered once.

A slot takes a call from those that wait, runs it under its limit, answers, and takes the next. A call that overruns is
answered at once and keeps its slot until it ends.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from runtime.algorithms.executors import Executor
from runtime.algorithms.wire import Answer, Failure, Outcome
from runtime.bus.microservice import EndpointStats
from runtime.clock import Clock

log = logging.getLogger(__name__)

# Calls that may wait, for each one that may run.
WAITING_PER_SLOT = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One request, to be answered or refused once.

    deadline_ms: unix time, 0 for none. body: reads it, or says why that is not possible. answer: packs and sends what
    may be large. refuse: sends a failure of a line or two.
    """

    deadline_ms: int
    body: Callable[[], Awaitable[bytes | Failure]]
    answer: Callable[[Answer], Awaitable[None]]
    refuse: Callable[[Failure], None]


class Slots:
    """Runs the calls of one algorithm."""

    def __init__(self, name: str, executor: Executor, clock: Clock, *, concurrency: int, timeout_s: float) -> None:
        self._name = name
        self._executor = executor
        self._clock = clock
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._waiting: deque[Call] = deque()
        # Those without an answer, running or waiting; and whether there are none.
        self._unanswered: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots: set[asyncio.Task[None]] = set()
        self._overdue = 0
        self._stats = EndpointStats()

    @property
    def stats(self) -> EndpointStats:
        """Return the counters; `data` tells what goes on now."""
        self._stats.data = {"running": len(self._slots), "waiting": len(self._waiting), "overdue": self._overdue}
        return self._stats

    def offer(self, call: Call) -> None:
        """Run the call when its turn comes; refuse it as BUSY when there is no place for it."""
        self._unanswered.add(call)
        self._idle.clear()
        if not self.has_room():
            self._refuse(call, Failure(outcome=Outcome.BUSY, detail=f"every slot of {self._name} is taken"))
            return
        if len(self._slots) < self._concurrency:
            self._slots.add(asyncio.create_task(self._work(call), name=f"slot of {self._name}"))
        else:
            self._waiting.append(call)

    def has_room(self) -> bool:
        """Say whether the next call can run or wait."""
        if len(self._slots) < self._concurrency:
            return True
        if self._is_full():
            self._drop_expired()
        return not self._is_full()

    async def idle(self) -> None:
        """Return when every caller has its answer; overdue calls may still run."""
        await self._idle.wait()

    def refuse_all(self, failure: Failure) -> None:
        """Refuse every call that has no answer yet."""
        self._waiting.clear()
        for call in list(self._unanswered):
            self._refuse(call, failure)

    # --- one slot ---

    async def _work(self, first: Call) -> None:
        call: Call | None = first
        while call is not None:
            begun_ns = self._clock.time_ns()
            try:
                await self._run(call)
            except Exception as error:  # a defect, or NATS is away: the slot goes on with the next call
                log.exception("a call of %s could not be answered", self._name, extra={"action": "unanswered"})
                self._refuse(call, Failure(outcome=Outcome.FAILED, detail=repr(error)))
            self._stats.processing_ns += self._clock.time_ns() - begun_ns
            call = self._waiting.popleft() if self._waiting else None
        # Together with the look at those that wait: a slot that has ended takes no call that comes now.
        self._slots.discard(asyncio.current_task())

    async def _run(self, call: Call) -> None:
        body = await call.body()
        if isinstance(body, Failure):
            await self._answer(call, body)
            return
        place = await self._executor.place()
        if isinstance(place, Failure):
            await self._answer(call, place)
            return
        limit_s = self._limit_s(call)
        if limit_s <= 0:
            place.release()
            self._refuse(call, _LATE)
            return
        execution = place.begin(self._name, body)
        done, _ = await asyncio.wait([execution.answer], timeout=limit_s)
        if done:
            await self._answer(call, execution.answer.result())
            return
        self._refuse(call, Failure(outcome=Outcome.TIMEOUT, detail=f"no result within {limit_s:.3g} s"))
        execution.give_up()
        await self._until_over(execution.answer)

    async def _until_over(self, answer: asyncio.Task[Answer]) -> None:
        """Keep the slot while an overdue call runs on."""
        log.warning("a call of %s runs beyond its limit and keeps its slot", self._name, extra={"action": "overdue"})
        self._overdue += 1
        await asyncio.wait([answer])
        self._overdue -= 1

    def _limit_s(self, call: Call) -> float:
        """Return how long the call may run from now on, in seconds."""
        if not call.deadline_ms:
            return self._timeout_s
        return min(self._timeout_s, call.deadline_ms / 1000 - self._clock.time_ns() / 1e9)

    # --- answers ---

    async def _answer(self, call: Call, answer: Answer) -> None:
        if self._close(call, answer):
            await call.answer(answer)

    def _refuse(self, call: Call, failure: Failure) -> None:
        if self._close(call, failure):
            call.refuse(failure)

    def _close(self, call: Call, answer: Answer) -> bool:
        """Count the call; False when it has been answered before."""
        if call not in self._unanswered:
            return False
        self._unanswered.discard(call)
        if not self._unanswered:
            self._idle.set()
        self._stats.requests += 1
        if isinstance(answer, Failure):
            self._stats.errors += 1
            self._stats.last_error = f"{answer.outcome}: {answer.detail}"
        return True

    def _is_full(self) -> bool:
        return len(self._waiting) >= WAITING_PER_SLOT * self._concurrency

    def _drop_expired(self) -> None:
        """Refuse the waiting calls whose callers have given up, to make room for those of others."""
        for call in [call for call in self._waiting if self._limit_s(call) <= 0]:
            self._waiting.remove(call)
            self._refuse(call, _LATE)


_LATE = Failure(outcome=Outcome.TIMEOUT, detail="the deadline passed before a slot was free")
