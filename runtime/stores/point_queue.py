"""What every store of measurements shares: a bounded queue, one thread that writes it in batches, and its patience.

Saving only appends to the queue. The thread is started by the first point; nothing of it can fail or delay a message.
"""

import asyncio
import collections
import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from runtime.errors import StoreError, StoreUnavailableError
from runtime.stores.base import Point, PointCounts

# Points that wait at most; about 10 MB. Beyond it the oldest is dropped.
MAX_QUEUED = 10_000
# A batch is written when it has this many points, or when its first point has waited this long (seconds).
BATCH_POINTS = 1_000
BATCH_WAIT_S = 1.0
# Pause before a batch is tried again, in seconds: the first one, doubled each time, and the longest. Half of a pause is
# left to chance, for replicas that failed together would otherwise come back together.
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 5.0
# What `close` may take in all, in seconds.
CLOSE_S = 2.0
# Seconds between two lines about the same trouble; what happens in between is counted.
WARN_EVERY_S = 60.0

log = logging.getLogger(__name__)


class QueuedPoints(ABC):
    """The `PointStore` without its storage, which `_write` and `_release` are.

    last_attempt_s: an attempt that begins with less time before the end of `close` is not made any more.
    """

    def __init__(self, *, thread_name: str, max_queued: int, batch_wait_s: float, last_attempt_s: float) -> None:
        self.counts = PointCounts()
        self._thread_name = thread_name
        self._max_queued = max_queued
        self._batch_wait_s = batch_wait_s
        self._last_attempt_s = last_attempt_s
        self._queue: collections.deque[Point] = collections.deque()
        # Guards the queue, the batch in hand, the counts and `_close_at`; the thread waits on it.
        self._changed = threading.Condition()
        self._in_hand: list[Point] = []
        self._close_at: float | None = None
        self._thread: threading.Thread | None = None
        # Only the thread uses what follows. When to try again, whether the store asked for that, and the length of our
        # own pauses (0 after a success):
        self._resume_at = 0.0
        self._pause_was_asked = False
        self._pause_s = 0.0
        # For each kind of trouble, when it may be told again, and how often it was not told:
        self._quiet_until: dict[str, float] = {}
        self._untold: collections.Counter[str] = collections.Counter()

    def save(self, point: Point) -> None:
        with self._changed:
            if not point.fields or self._close_at is not None:
                self.counts.dropped += 1
                return
            if len(self._queue) >= self._max_queued:
                self._queue.popleft()
                self.counts.dropped += 1
            self._queue.append(point)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name=self._thread_name, daemon=True)
                self._thread.start()
            elif len(self._queue) in (1, BATCH_POINTS):
                self._changed.notify()

    async def write(self, points: Sequence[Point]) -> None:
        await asyncio.to_thread(self.write_through, points)

    def write_through(self, points: Sequence[Point]) -> None:
        """As `write`, but blocking. `release` ends it where there is no `close`."""
        if refused := self._write(points, once=True):
            raise StoreError(f"{refused} of {len(points)} points are refused; the log says why")
        with self._changed:
            self.counts.written += len(points)

    def release(self) -> None:
        """Close files and connections."""
        self._release()

    async def close(self) -> None:
        with self._changed:
            self._close_at = self._close_at or time.monotonic() + CLOSE_S
            self._changed.notify()
            thread, left_s = self._thread, self._close_at - time.monotonic()
        if thread is not None:
            # A store that hangs does not hold the process: the thread is a daemon.
            await asyncio.to_thread(thread.join, max(left_s, 0.0))
            self._give_up()
        else:  # `write` alone has used the storage
            await asyncio.to_thread(self.release)

    @abstractmethod
    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        """See `PointStore.query`."""

    @abstractmethod
    def _write(self, batch: Sequence[Point], *, once: bool = False) -> int:
        """Store one batch; return how many of its points were refused for good (the others are stored).

        once: see `PointStore.write`. Called by several threads at once. Raises StoreUnavailableError when the same
        batch should be tried again, which must not store a point twice, or StoreError when it cannot be stored.
        """

    @abstractmethod
    def _release(self) -> None:
        """Close files and connections; nothing may be open."""

    def _give_up(self) -> None:
        """Count what a thread that did not end in time still has."""
        with self._changed:
            self.counts.dropped += len(self._in_hand) + len(self._queue)
            self._in_hand = []
            self._queue.clear()

    # --- the thread ---

    def _write_all(self) -> None:
        """Write batches until the store is closed and its queue is empty or out of time."""
        while batch := self._next_batch():
            self._try(batch)
        self._release()

    def _next_batch(self) -> list[Point]:
        """Wait for a batch, after a failure until it is time; an empty one means the end."""
        with self._changed:
            self._wait_out_pause()
            self._changed.wait_for(lambda: self._queue or self._is_closing())
            self._changed.wait_for(self._batch_is_due, self._batch_wait_s)
            if self._is_too_late():
                self.counts.dropped += len(self._queue)
                self._queue.clear()
            self._in_hand = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_POINTS))]
            return self._in_hand

    def _wait_out_pause(self) -> None:
        """Wait until the next attempt. Closing cuts a pause of our own short, but not one that the store asked for."""
        self._changed.wait_for(self._is_closing, self._resume_at - time.monotonic())
        if self._is_closing() and not self._pause_was_asked:
            self._resume_at = min(self._resume_at, time.monotonic() + FIRST_RETRY_S)
        if self._is_closing() and not self._is_too_late():
            self._changed.wait(max(self._resume_at - time.monotonic(), 0.0))

    def _is_closing(self) -> bool:
        return self._close_at is not None

    def _batch_is_due(self) -> bool:
        return len(self._queue) >= BATCH_POINTS or self._is_closing()

    def _is_too_late(self) -> bool:
        """Tell whether the next attempt could not end before `close` has to."""
        if self._close_at is None:
            return False
        return max(time.monotonic(), self._resume_at) > self._close_at - self._last_attempt_s

    def _try(self, batch: list[Point]) -> None:
        try:
            refused = self._write(batch)
        except StoreUnavailableError as error:
            self._warn("wait", error)
            self._put_back(batch)
            self._pause(error.retry_after_s)
        except StoreError as error:
            self._warn("are lost", error)
            self._settle(batch, written=0)
            self._pause()
        except Exception:  # the edge of the thread: whatever is wrong with one batch, the next one may be written
            log.exception("measurements are lost: writing failed", extra={"action": "points"})
            self._settle(batch, written=0)
            self._pause()
        else:
            self._settle(batch, written=len(batch) - refused)
            self._pause_s = 0.0

    def _pause(self, asked_s: float = 0.0) -> None:
        """Set the time of the next attempt: after the pause that the store asks for, else a growing one."""
        self._pause_s = min(self._pause_s * 2 or FIRST_RETRY_S, MAX_RETRY_S)
        self._pause_was_asked = asked_s > 0
        self._resume_at = time.monotonic() + (asked_s or self._pause_s * random.uniform(0.5, 1.0))

    def _settle(self, batch: list[Point], *, written: int) -> None:
        with self._changed:
            if self._in_hand is batch:  # otherwise `close` did not wait for it and has counted it
                self.counts.written += written
                self.counts.dropped += len(batch) - written
                self._in_hand = []

    def _put_back(self, batch: list[Point]) -> None:
        """Queue a batch again before what came meanwhile; what has no room any more is its oldest part."""
        with self._changed:
            if self._in_hand is not batch:
                return
            lost = max(len(batch) - (self._max_queued - len(self._queue)), 0)
            self.counts.retried += len(batch) - lost
            self.counts.dropped += lost
            self._queue.extendleft(reversed(batch[lost:]))
            self._in_hand = []

    def _warn(self, what: str, reason: object) -> None:
        """Say what happens to measurements and why: at once, then once a minute with the number of repeats."""
        now = time.monotonic()
        if now < self._quiet_until.get(what, 0.0):
            self._untold[what] += 1
            return
        repeats = self._untold.pop(what, 0)
        more = f" ({repeats} more times since the last such line)" if repeats else ""
        log.warning("measurements %s: %s%s", what, reason, more, extra={"action": "points"})
        self._quiet_until[what] = now + WARN_EVERY_S
