"""One sink at work: outputs in order, one at a time, each tried until it is written or a dead letter.

    queue ─▶ write ─▶ written
              │ NotConnected: close, pause, open, write again; without limit, so an outage loses nothing
              └ anything else: pause, write again; after ATTEMPTS a dead letter, and the next one

The queue is bounded by those who fill it: each waits for its outputs before it goes on.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from runtime.clock import Clock
from runtime.deadletter import Attempt
from runtime.drivers.calls import Calls
from runtime.drivers.flow import Item, NotConnected, Sink
from runtime.drivers.schedule import Backoff
from runtime.drivers.sink_letters import SinkLetters
from runtime.errors import BusClosedError, BusError

log = logging.getLogger(__name__)

# Attempts to write one output that a sink fails at, for another reason than that it is not connected.
ATTEMPTS = 5


@dataclass(slots=True)
class SinkCounts:
    """What became of the outputs of one sink."""

    written: int = 0
    retried: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    outputs: Any
    item: Item
    done: "asyncio.Future[None]"


@dataclass(slots=True)
class _Trouble:
    """What has gone wrong with one output so far."""

    attempts: list[Attempt] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)


class SinkLoop:
    """`open`, then `run` until it is cancelled, then `close`."""

    def __init__(self, ref: str, sink: Sink, clock: Clock, letters: SinkLetters) -> None:
        self.ref = ref
        self.takes_errors = sink.params.errors
        self.counts = SinkCounts()
        self._sink = sink
        self._clock = clock
        self._letters = letters
        self._calls = Calls(f"sink {ref}")
        self._is_open = False
        self._was_open = False
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()

    def put(self, outputs: Any, item: Item) -> "asyncio.Future[None]":
        """Queue one output; the future ends when it is written, or stored as a dead letter. It never fails."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Job(outputs, item, done))
        return done

    async def open(self) -> None:
        """Open the sink; if the outside is not there, `run` does so later. Raises what `open` raises otherwise."""
        try:
            await self._ensure_open()
        except NotConnected as error:
            self._warn("is not connected", error)

    async def run(self) -> None:
        """Write what is queued, for ever. Raises BusClosedError."""
        while True:
            job = await self._queue.get()
            await self._write(job)
            if not job.done.done():
                job.done.set_result(None)

    async def close(self) -> None:
        """Close the sink; what it raises is logged."""
        try:
            await self._close()
        except Exception:  # the sink's own, at the end of its life
            log.exception('sink "%s" does not close', self.ref, extra={"action": "sink-close"})
        self._calls.end()

    async def _write(self, job: _Job) -> None:
        trouble = _Trouble()
        while True:
            try:
                await self._ensure_open()
                await self._calls.call(self._sink.write, job.outputs, job.item)
            except NotConnected as error:
                await self._reopen_later(error, trouble)
            except Exception as error:  # the sink's own; the output is tried again, or kept as a dead letter
                if await self._note_failure(job, error, trouble):
                    return
            else:
                self.counts.written += 1
                return

    async def _ensure_open(self) -> None:
        if not self._is_open:
            # Before: what has been opened half is to be closed, too.
            self._is_open = True
            try:
                await self._calls.call(self._sink.open)
            except Exception as error:
                await self._close()
                if self._was_open and not isinstance(error, NotConnected):
                    # It knows how to open: whatever is in its way is no fault of the output that waits.
                    raise NotConnected(f"{type(error).__name__}: {error}") from error
                raise
            self._was_open = True

    async def _reopen_later(self, error: NotConnected, trouble: _Trouble) -> None:
        if trouble.backoff.is_fresh:
            self._warn("is not connected; it is opened again until it is", error)
        self.counts.retried += 1
        await self._close_quietly()
        await self._clock.sleep(trouble.backoff.next_s(error.retry_after_s))

    async def _close_quietly(self) -> None:
        """Close before opening again; a connection that is lost need not close well."""
        try:
            await self._close()
        except Exception as error:  # the sink's own
            log.debug('sink "%s" does not close: %r', self.ref, error)

    async def _note_failure(self, job: _Job, error: Exception, trouble: _Trouble) -> bool:
        """Return whether the output was given up."""
        now_s = self._clock.time_ns() / 1e9
        text = f"{type(error).__name__}: {error}"
        trouble.attempts.append(Attempt(attempt=len(trouble.attempts) + 1, time_s=now_s, error=text))
        if len(trouble.attempts) >= ATTEMPTS:
            await self._bury(job, error, trouble)
            return True
        self.counts.retried += 1
        self._warn("failed", error)
        await self._clock.sleep(trouble.backoff.next_s())
        return False

    async def _bury(self, job: _Job, error: Exception, trouble: _Trouble) -> None:
        """Store the dead letter, however long that takes: until then nobody else has the output."""
        backoff = Backoff()
        while True:
            try:
                await self._letters.store(self.ref, job.outputs, job.item, error, trouble.attempts)
            except BusClosedError:
                raise
            except BusError as failure:
                self._warn("has an output that cannot be kept as a dead letter yet", failure)
                await self._clock.sleep(backoff.next_s())
            else:
                self.counts.dead += 1
                return

    async def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._calls.close(self._sink.close)

    def _warn(self, what: str, error: Exception) -> None:
        log.warning('sink "%s" %s: %s', self.ref, what, error, extra={"action": "sink"})
