"""One source at work: open, read at its rate, send, wait for the answers, hand them to the sinks, acknowledge.

    read ─▶ room? ─▶ predict ─▶ answers ─▶ turn of its state id ─▶ sinks ─▶ position, done(outcome)
              │         └ stream full, NATS away: again after a pause, under the same id
              └ no: block, or drop the oldest or the newest

A request without an answer in time is looked up in the workflow's stream, see `stored_answers.py`.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from runtime.clock import Clock
from runtime.drivers.base import RestrictedInferenceProcess
from runtime.drivers.calls import Calls
from runtime.drivers.flow import DROPPED, Item, NotConnected, Overflow, Source, Wait
from runtime.drivers.positions import Kept, Position, request_id, request_prefix
from runtime.drivers.schedule import Backoff, Schedule
from runtime.drivers.stored_answers import Answer, StoredAnswers
from runtime.drivers.turns import Turn, Turns
from runtime.errors import BusUnavailableError, DriverError, MessageError, MessageTooLargeError, PredictionError
from runtime.message import ReplyOutcome, new_request_id

log = logging.getLogger(__name__)

# Timeouts after the start within which everything has been sent again that an earlier run had in flight: its requests
# were sent within one.
REPEATS_WITHIN = 10

# Answers to one item on their way into the sinks: returns what ends when all of them are written.
Deliver = Callable[[Item, Sequence[Answer]], "asyncio.Future[Any]"]


@dataclass(slots=True)
class SourceCounts:
    """What became of the items of one source. retried: requests sent again, as the stream did not take them."""

    read: int = 0
    ok: int = 0
    failed: int = 0
    dropped: int = 0
    retried: int = 0
    reconnected: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the request of an item ended."""

    outcome: str
    answers: Sequence[Answer]


class SourceLoop:
    """`prepare`, then `run`, which returns when the source is drained or after `stop`."""

    def __init__(
        self,
        ref: str,
        source: Source,
        inference: RestrictedInferenceProcess,
        *,
        answers: StoredAnswers,
        turns: Turns,
        deliver: Deliver,
    ) -> None:
        self.ref = ref
        self.counts = SourceCounts()
        self._source = source
        self._params = source.params
        self._inference = inference
        self._clock: Clock = inference.clock
        self._answers = answers
        self._turns = turns
        self._deliver = deliver
        self._calls = Calls(f"source {ref}")
        self._position = Position(inference.bus, self._clock, inference.stream, inference.driver, ref)
        self._schedule = Schedule(self._clock, self._params.rate)
        # Sequences of answers to requests that an earlier run has sent and not seen through.
        self._left_behind: dict[str, list[int]] = {}
        self._prepared_ns = 0
        self._in_flight = 0
        self._waiting: Item | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._items = asyncio.TaskGroup()
        self._reading: asyncio.Task[None] | None = None
        self._is_stopped = False

    def set_rate(self, rate: float | None) -> None:
        """Change the rate, from the next tick on; None: as they come."""
        self._schedule = Schedule(self._clock, rate)

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is in flight is done. Repeating it is fine."""
        self._is_stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def prepare(self) -> None:
        """Find out where an earlier run has stopped. Raises BusUnavailableError."""
        kept = await self._position.load()
        self._prepared_ns = self._clock.time_ns()
        if kept is None:
            return
        if kept.position is not None:
            log.info('source "%s" goes on at %s', self.ref, kept.position, extra={"action": "resume"})
            await self._calls.call(self._source.resume, kept.position)
        self._left_behind = await self._find_left_behind(kept)

    async def run(self) -> None:
        """Work until the source is drained or stopped. Raises DriverError when the source fails."""
        writing = asyncio.create_task(self._position.run(), name=f"position of {self.ref}")
        try:
            async with self._items:
                self._reading = self._items.create_task(self._read_all(), name=f"source {self.ref}")
                if self._is_stopped:
                    self._reading.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await self._position.flush()
            await self._close()
            log.info('source "%s" has ended: %s', self.ref, self.counts, extra={"action": "source-end"})

    async def _find_left_behind(self, kept: Kept) -> dict[str, list[int]]:
        """Return where the answers lie to what was in flight when the position was written, or sent later."""
        since_ns = kept.written_ns - round(self._params.timeout * 1e9)
        prefix = request_prefix(self._inference.driver, self.ref)
        return await self._answers.index(lambda name: name.startswith(prefix), since_ns)

    # --- reading ---

    async def _read_all(self) -> None:
        """Read until the source ends, opening it again when it is not connected."""
        backoff = Backoff()
        try:
            while True:
                try:
                    await self._read_once(backoff)
                    return
                except NotConnected as error:
                    await self._calls.close(self._source.close)
                    await self._wait_to_reopen(error, backoff)
        except Exception as error:  # the source's own code
            raise DriverError(f'source "{self.ref}" failed: {type(error).__name__}: {error}') from error

    async def _read_once(self, backoff: Backoff) -> None:
        await self._calls.call(self._source.open)
        async with contextlib.aclosing(self._calls.iterate(self._source.read)) as items:
            await self._wait_for_tick()
            async for found in items:
                backoff.reset()
                await self._take(found)

    async def _close(self) -> None:
        """Close the source, last of all: what is acknowledged upstream needs the connection."""
        try:
            await self._calls.close(self._source.close)
        except Exception:  # the source's own, at the end of its life
            log.exception('source "%s" does not close', self.ref, extra={"action": "source-close"})
        self._calls.end()

    async def _wait_to_reopen(self, error: NotConnected, backoff: Backoff) -> None:
        if backoff.is_fresh:
            text = 'source "%s" is not connected; it is opened again until it is: %s'
            log.warning(text, self.ref, error, extra={"action": "source"})
        self.counts.reconnected += 1
        await self._clock.sleep(backoff.next_s(error.retry_after_s))

    async def _take(self, found: Any) -> None:
        if isinstance(found, Wait):
            await self._clock.sleep(found.seconds)
            return
        self.counts.read += 1
        await self._admit(self._completed(found if isinstance(found, Item) else Item(found)))
        await self._wait_for_tick()

    async def _wait_for_tick(self) -> None:
        wait_s = self._schedule.wait_s()
        # Without a rate too: a source that never waits would keep the loop to itself.
        await (self._clock.sleep(wait_s) if wait_s else asyncio.sleep(0))

    def _completed(self, item: Item) -> Item:
        position = item.position
        name = item.request_id or (
            new_request_id() if position is None else request_id(self._inference.driver, self.ref, position)
        )
        state_id = item.state_id or self._params.state_id or self.ref
        return replace(item, source=self.ref, request_id=name, state_id=state_id)

    # --- room ---

    async def _admit(self, item: Item) -> None:
        if item.position is not None and not self._position.is_begun:
            await self._position.mark_start()
        if self._params.overflow is Overflow.BLOCK:
            await self._has_room.wait()
        if self._in_flight < self._params.max_in_flight and self._waiting is None:
            self._start(item)
        elif self._params.overflow is Overflow.DROP_NEWEST:
            self._drop(item)
        else:
            dropped, self._waiting = self._waiting, item
            if dropped is not None:
                self._drop(dropped)

    def _start(self, item: Item) -> None:
        self._in_flight += 1
        if self._in_flight >= self._params.max_in_flight:
            self._has_room.clear()
        place = None if item.position is None else self._position.begin(item.position)
        end = partial(self._position.finish, place) if place is not None else None
        # Taken now: the order of the turns is that of reading.
        turn = self._turns.take(item.state_id)
        self._items.create_task(self._carry(item, turn, end), name=f"item {item.request_id}")

    def _free(self) -> None:
        self._in_flight -= 1
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._start(waiting)
        else:
            self._has_room.set()

    def _drop(self, item: Item) -> None:
        self.counts.dropped += 1
        if item.done is not None:
            self._items.create_task(_tell(item, DROPPED), name=f"drop {item.request_id}")

    # --- one item ---

    async def _carry(self, item: Item, turn: Turn, finish: Callable[[], None] | None) -> None:
        """See one item through. When it is cancelled, nothing is acknowledged, and it comes again."""
        try:
            ended = await self._ask(item)
            await turn.come()
            written = self._deliver(item, ended.answers)
        finally:
            turn.pass_on()
        await written
        if finish is not None:
            finish()
        if ended.outcome == ReplyOutcome.OK:
            self.counts.ok += 1
        else:
            self.counts.failed += 1
        self._free()
        await _tell(item, ended.outcome)

    async def _ask(self, item: Item) -> _Ended:
        """Send the request until the stream has it, and return its answers."""
        if item.fault:
            return self._failed(item, ReplyOutcome.INVALID, item.fault)
        left_behind = self._left_behind.pop(item.request_id, None)
        backoff = Backoff()
        while True:
            sent_ns = self._clock.time_ns()
            try:
                if left_behind is not None:
                    return _ended(await self._answers.read(left_behind))
                return _ended(await self._predict(item))
            except MessageTooLargeError as error:
                return self._failed(item, ReplyOutcome.TOO_LARGE, str(error))
            except (MessageError, ValueError) as error:
                return self._failed(item, ReplyOutcome.INVALID, str(error))
            except BusUnavailableError as error:
                log.debug("the answers to %s cannot be read yet: %s", item.request_id, error)
            except PredictionError as error:
                if not self._is_passing(error):
                    return await self._look_up(item, error, sent_ns)
            self.counts.retried += 1
            await self._clock.sleep(backoff.next_s())

    async def _predict(self, item: Item) -> list[Answer]:
        replies = self._inference.predict_all(
            item.inputs,
            item.state_id,
            timeout=self._params.timeout,
            headers=item.metadata,
            request_id=item.request_id,
            comes_again=True,  # an item in flight when the driver ends is sent again
        )
        return [Answer(reply.value) async for reply in replies]

    def _is_passing(self, error: PredictionError) -> bool:
        """Say whether the stream does not have the request. One that timed out while requests are held may have it."""
        if error.outcome == ReplyOutcome.UNAVAILABLE:
            return True
        return error.outcome == ReplyOutcome.TIMEOUT and self._inference.held

    async def _look_up(self, item: Item, error: PredictionError, sent_ns: int) -> _Ended:
        """Return how a request ended that failed: perhaps only its answer was lost."""
        if error.outcome == ReplyOutcome.TIMEOUT:
            with contextlib.suppress(BusUnavailableError):
                if answers := await self._answers.of(item.request_id, self._sent_since_ns(item, sent_ns)):
                    return _ended(answers)
        return self._failed(item, error.outcome, error.detail)

    def _sent_since_ns(self, item: Item, sent_ns: int) -> int:
        """Return since when the stream may have the request: one of a run that was killed was sent before ours."""
        may_repeat_ns = self._prepared_ns + round(REPEATS_WITHIN * self._params.timeout * 1e9)
        return self._prepared_ns if item.position is not None and sent_ns < may_repeat_ns else sent_ns

    def _failed(self, item: Item, outcome: str, detail: str) -> _Ended:
        fields = {"request_id": item.request_id, "action": "item-failed"}
        log.debug('an item of source "%s" failed (%s): %s', self.ref, outcome, detail, extra=fields)
        return _Ended(outcome, [Answer(error=detail)])


def _ended(answers: Sequence[Answer]) -> _Ended:
    is_failed = any(answer.error for answer in answers)
    return _Ended(ReplyOutcome.FAILED if is_failed else ReplyOutcome.OK, answers)


async def _tell(item: Item, outcome: str) -> None:
    """Acknowledge the item upstream; what that raises is logged, as there is nobody else to tell."""
    if item.done is None:
        return
    try:
        told = item.done(outcome)
        if inspect.isawaitable(told):
            await told
    except Exception:  # the source's own
        log.exception('the end of an item of source "%s" cannot be told', item.source, extra={"action": "item-done"})
