"""Time as the runtime sees it, so that a test can hold it still and advance it.

Owns: `Clock` (the contract), `SystemClock` (the event loop's time) and `FakeClock` (moved by hand). Nothing else in
`runtime/` asks the operating system for time on a path that a retry, a timeout or a redelivery depends on.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A scheduled callback; `cancel` may be called at any time and more than once."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time in seconds; all members are to be used on the event loop's thread."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    def time_ns(self) -> int:
        """Wall clock, nanoseconds since 1970 (UTC)."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back once, `delay_s` seconds from now."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds; safe to cancel."""
        ...


class SystemClock:
    """The real time."""

    # The functions themselves: they are called several times for every message.
    monotonic = staticmethod(time.monotonic)
    time_ns = staticmethod(time.time_ns)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class _FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Time that stands still until `advance` moves it."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._start_ns = start_ns
        self._elapsed_s = 0.0
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self._elapsed_s

    def time_ns(self) -> int:
        return self._start_ns + round(self._elapsed_s * 1e9)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._elapsed_s + max(delay_s, 0.0), next(self._numbers), timer))
        return timer

    async def sleep(self, delay_s: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay_s, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP or a person does; timers and `monotonic` do not notice."""
        self._start_ns += round(seconds * 1e9)

    async def advance(self, seconds: float) -> None:
        """Move the time on, running every callback at its own moment and letting the loop settle after each."""
        target = self._elapsed_s + seconds
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            self._elapsed_s = max(self._elapsed_s, due)
            if timer.callback is not None:
                timer.callback()
                await settle()
        self._elapsed_s = target
        await settle()


# Turns of the event loop after which work that was set off by a timer has come to its next wait.
SETTLE_TURNS = 20


async def settle() -> None:
    """Let everything that is ready to run on this loop run (threads are not waited for)."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)
