"""A limit on the time of one call, on the runtime's clock."""

import asyncio
from types import TracebackType

from runtime.clock import Clock, TimerHandle
from runtime.errors import HandlerTimeoutError


class TimeLimit:
    """Cancels what runs inside of its `with` when the time is over, and raises HandlerTimeoutError in its place.

    Whatever becomes of the cancellation inside, the call was late. limit_s: None for no limit.
    """

    def __init__(self, clock: Clock, limit_s: float | None) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._ends_s = 0.0
        self._timer: TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._is_over = False

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, None without a limit."""
        return None if self._limit_s is None else self._ends_s - self._clock.monotonic()

    def restart(self) -> None:
        """Let the time start anew; nothing once the `with` is left or the time is over."""
        if self._limit_s is None or self._task is None or self._is_over:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._ends_s = self._clock.monotonic() + self._limit_s
        self._timer = self._clock.call_later(self._limit_s, self._end)

    def pause(self) -> None:
        """Let no time pass until `restart`."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        if self._task is not None:
            self._is_over = True
            self._task.cancel()

    def __enter__(self) -> "TimeLimit":
        self._task = asyncio.current_task()
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_over or task is None:
            return
        if task.uncancel() == 0:  # otherwise somebody else has cancelled it as well
            raise HandlerTimeoutError(f"the handler took longer than {self._limit_s:g} s") from error
