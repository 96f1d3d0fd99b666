"""When the next thing is due: ticks of a rate without drift, and growing pauses after failures."""

import random

from runtime.clock import Clock

# Seconds that a schedule may lag and still be caught up: timers are a little late, and the rate has to hold all the
# same. What a longer stall has missed is not sent in a burst.
CATCH_UP_S = 0.05


class Schedule:
    """Tick n at start + n/rate. No rate: always now."""

    def __init__(self, clock: Clock, rate: float | None, *, catch_up_s: float = CATCH_UP_S) -> None:
        """Start now. rate: per second."""
        self._clock = clock
        self._catch_up_s = catch_up_s
        self._interval_s = 1 / rate if rate else 0.0
        self._due_s = clock.monotonic()

    def wait_s(self) -> float:
        """Take the next tick and return the seconds until it, 0 if it is due."""
        if not self._interval_s:
            return 0.0
        now_s = self._clock.monotonic()
        due_s = max(self._due_s, now_s - self._catch_up_s)
        self._due_s = due_s + self._interval_s
        return max(0.0, due_s - now_s)


class Backoff:
    """Pauses in seconds, doubled each time; half of each is chance, so that what failed together comes back apart."""

    def __init__(self, *, first_s: float = 0.5, longest_s: float = 30.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has failed since the beginning, or since the last success."""
        return self._pause_s == 0.0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next pause. at_least_s: what the other side has asked for."""
        self._pause_s = min(self._pause_s * 2 or self._first_s, self._longest_s)
        return max(self._pause_s * random.uniform(0.5, 1.0), at_least_s)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._pause_s = 0.0
