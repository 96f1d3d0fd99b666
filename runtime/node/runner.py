"""One message, from subscribe to ack. The numbered steps are those of `docs/architecture.md`.

    1. take     a free slot waits for a delivery                         _slot
    2. decode   a failure is a dead letter, never a retry                _read, _decode
    3. handle   under the node's timeout, one fresh context each         _handle
    4. publish  every output under its deterministic id                  _emit
    5. settle   when the last PubAck is in: exactly one of ack,          _finish, failures.py
                nak with a delay, or dead letter + term

A slot is a long-lived task, so a message costs no task of its own. It is free again when the handler is through:
PubAcks arrive meanwhile, and the last one settles the delivery.
"""

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any

from runtime.bus.base import Delivery, Reader, ReaderClosed
from runtime.errors import BusClosedError, DecodeError, Drop, HandlerTimeoutError, Outcome
from runtime.message import Message, MessageType
from runtime.node.context import Context
from runtime.node.failures import Failures
from runtime.node.handler import CallKind, HandlerFunction
from runtime.node.parts import Parts
from runtime.node.watchdog import LoopWatchdog
from runtime.node.work import Work
from runtime.payload import decode_any, encode_result

log = logging.getLogger(__name__)

# Seconds between looks at overdue handlers, the prefetch and the metrics.
TICK_S = 0.05
# Messages that a slot handles before it lets the rest of the loop run: sending happens there.
YIELD_EVERY = 8
# Deliveries whose end is being decided at once; beyond it the slots wait, or a node that only fails would pile them up.
MAX_FAILING = 256
# Seconds that a stopping node waits for its last PubAcks, even when the handlers have used up the grace time.
LAST_PUBLISHES_S = 1.0
# Plain handlers that never come back keep their threads; with this many the process starts afresh.
MAX_STUCK_THREADS = 8


class Runner:
    """Runs one replica of one node until `stop`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._monotonic = parts.clock.monotonic
        self._services = parts.services
        self._outputs = parts.outputs
        self._metrics = parts.metrics
        self._counts = parts.metrics.counts
        self._node = parts.services.node
        self._gate = parts.gate
        self._is_ordered = parts.spec.partitions is not None
        self._timeout_s = parts.spec.timeout_s
        # The function of every plain message, where it does not depend on the sender.
        self._only = None if parts.handler.by_node else parts.handler.default
        # Whether the handlers send by themselves, and what they return is nothing.
        self._sends_itself = parts.handler.from_node_style
        # Slot -> the work whose handler it is running, for the ticker.
        self._running: dict[asyncio.Task[None], Work | None] = {}
        self._slots: list[asyncio.Task[None]] = []
        self._failures = Failures(parts)
        self._failing: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._watchdog = LoopWatchdog()
        # As many at once as the node says, also where there are several readers: of inputs (bare), or of partitions.
        self._turn = asyncio.Semaphore(parts.concurrency) if len(parts.readers) > 1 else None
        self._warned_of_result = False
        self._is_over = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- life ---

    async def start(self) -> None:
        """Bind the consumers and begin to take. Raises NotFoundError for a consumer that stays missing."""
        for reader in self._parts.readers:
            await reader.start()
        for number, reader in enumerate(self._parts.readers):
            for slot in range(1 if self._is_ordered else self._parts.concurrency):
                self._slots.append(self._spawn(self._slot(reader), f"{self._node} slot {number}.{slot}"))
        self._ticker = self._spawn(self._tick(), f"{self._node} ticker")
        self._watchdog.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more, let what runs finish within `grace_s`, give back the rest."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + grace_s
        for reader in self._parts.readers:
            await reader.drain()
        if self._slots:
            _, late = await asyncio.wait(self._slots, timeout=grace_s)
            for slot in late:
                log.warning("%s did not finish in %g s; its message is given back", slot.get_name(), grace_s)
                slot.cancel()
            if late:  # a handler that swallows its cancellation must not hold up the end
                await asyncio.wait(late, timeout=LAST_PUBLISHES_S)
        await self._wait_for_publishes(max(ends_s - loop.time(), LAST_PUBLISHES_S))
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        self._watchdog.stop()
        for reader in self._parts.readers:
            await reader.close()
        self._is_over = True
        self._metrics.flush()

    async def _wait_for_publishes(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._parts.publisher.flush()
                while self._failing:
                    await asyncio.gather(*self._failing, return_exceptions=True)
        except TimeoutError:
            log.warning("outputs are unconfirmed after %.1f s; their messages are given back", limit_s)
            for task in self._failing:
                task.cancel()

    # --- 1. take ---

    async def _slot(self, reader: Reader) -> None:
        """Work on one message after the other."""
        done = 0
        slot = asyncio.current_task()
        assert slot is not None, "a slot is a task"
        while True:
            try:
                delivery = await reader.take()
            except ReaderClosed:
                return
            if self._turn is None:
                await self.work_on(delivery, reader, slot)
            else:
                async with self._turn:
                    await self.work_on(delivery, reader, slot)
            done += 1
            if done % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def work_on(self, delivery: Delivery, reader: Reader, slot: asyncio.Task[None]) -> None:
        """Work on one message, in the slot of whoever calls."""
        self._counts.taken += 1
        work = Work(delivery, reader, self._finish, slot)
        failure: BaseException | None = None
        try:
            self._read(work)
            if work.message.claim is not None:
                await self._fetch_payload(work)
            call = self._decode(work)
            if call is None:
                await self._pass_along(work)
            elif self._gate is None:
                await self._handle(work, call[0], call[1])  # not *call, which takes twice as long
            else:
                await self._gate.handle(work, partial(self._handle, work, call[0]), call[1])
        except BaseException as error:
            failure = _failure_of(work, error)
        self._end(work, failure)
        if len(self._failing) >= MAX_FAILING:
            await self._wait_for_failing()

    def _end(self, work: Work, failure: BaseException | None) -> None:
        if work.overdue:  # whatever the handler made of its cancellation
            _uncancel()
            failure = HandlerTimeoutError(f"the handler took longer than {self._parts.spec.timeout_s:g} s")
        work.end(failure)

    async def _wait_for_failing(self) -> None:
        while len(self._failing) >= MAX_FAILING:
            await asyncio.wait(self._failing, return_when=asyncio.FIRST_COMPLETED)

    # --- 2. decode ---

    def _read(self, work: Work) -> None:
        """Read the envelope. Raises DecodeError, and Drop for what is skipped."""
        if work.failure is not None:
            raise work.failure
        work.message = message = work.delivery.message or self._parts.decode(work.delivery.data)
        if not message.request_id:
            work.message = message = message._replace(request_id=f"{self._outputs.stream}-{work.origin}")
        if work.redrive:  # the deadline was that of a caller who has been told of the failure
            work.message = message = message._replace(deadline_ms=0)
        if self._parts.skips:
            self._parts.skips.check(work)

    async def _fetch_payload(self, work: Work) -> None:
        """Get a payload that lies in an object store, within the handler's time.

        Raises as `Claims.fetch` does, and Drop for what is skipped.
        """
        assert self._parts.claims is not None and work.message.claim is not None, "read by `decode` of the parts"
        slot = work.start(self._monotonic(), self._timeout_s)
        self._running[slot] = work
        try:
            work.message = work.message._replace(payload=await self._parts.claims.fetch(work.message.claim))
        finally:
            self._running[slot] = None
        if self._parts.skips:
            self._parts.skips.check(work)

    def _decode(self, work: Work) -> tuple[HandlerFunction, Any] | None:
        """Return the function to call and its data, None for a message that only passes. Raises DecodeError."""
        message = work.message
        if message.type is _OK and self._only is not None:
            return self._only, self._only.decode(message.payload)
        if message.type is not _OK and self._passes(message):
            return None
        function = self._parts.handler.select(message.from_node)
        if function is None:
            raise DecodeError(f"no handler for messages from node '{message.from_node}'", reason="no-handler")
        if message.type is MessageType.ERROR and not message.payload:
            return function, decode_any(b"") if function.decode is decode_any else None
        return function, function.decode(message.payload)

    def _passes(self, message: Message) -> bool:
        """Whether the handler is not called: for an ERROR unless it asks for them, for an early answer by its style."""
        if message.type is MessageType.ERROR:
            return not self._parts.handler.handle_errors
        return message.type in _EARLY and not self._sends_itself

    async def _pass_along(self, work: Work) -> None:
        """An ERROR goes on to the exit node; an early answer too, unless its sender has answered the caller."""
        if work.message.type is MessageType.ERROR:
            if self._gate is not None:
                await self._gate.skip(work)
            await self._outputs.forward(work, self._parts.error_subject)
        elif not work.message.reply_to:
            await self._outputs.forward(work, self._parts.forward_subject)

    # --- 3. handle ---

    async def _handle(self, work: Work, function: HandlerFunction, data: Any) -> None:
        """Call the handler; the ticker cancels the slot when its time is over."""
        context = Context(self._services, work)
        slot = work.start(self._monotonic(), self._timeout_s)
        self._running[slot] = work
        result: Any = None
        ok = False
        try:
            if function.kind is _ASYNC:
                result = await function.function(context, data)
            elif function.kind is CallKind.PLAIN:
                result = await self._parts.threads.call(function.function, context, data)
            else:
                await self._iterate(work, function, context, data)
            ok = not isinstance(result, Outcome)
        finally:
            self._running[slot] = None
            work.run_s = run_s = self._monotonic() - work.started_s
            self._metrics.observe(run_s, ok, work.message)
        if not work.overdue:
            await self._emit(work, result)

    async def _iterate(self, work: Work, function: HandlerFunction, context: Context, data: Any) -> None:
        """Publish a generator's items as they come; what follows an item runs after it is handed over."""
        if function.kind is CallKind.ASYNC_GENERATOR:
            items = function.function(context, data)
            try:
                async for item in items:
                    await self._emit_one(work, item, last=False)
            finally:
                await items.aclose()
            return
        iterator = await self._parts.threads.call(function.function, context, data)
        try:
            while (item := await self._parts.threads.call(next, iterator, _END)) is not _END:
                await self._emit_one(work, item, last=False)
        except Exception:  # not when cancelled: its thread may still be inside of it
            await self._parts.threads.call(iterator.close)
            raise

    # --- 4. publish ---

    def _emit(self, work: Work, result: Any) -> Awaitable[None]:
        """Hand over what a handler has returned."""
        if result is None or self._sends_itself or isinstance(result, (list, Outcome)):
            return self._emit_other(work, result)
        return self._outputs.emit_result(work, encode_result(result))

    async def _emit_other(self, work: Work, result: Any) -> None:
        """Hand over what is not one output, or none."""
        if isinstance(result, Outcome):
            raise result
        if self._sends_itself:
            if result is not None and not self._warned_of_result:
                self._warned_of_result = True
                log.warning("default_handler and custom_handlers send by ctx.send_output; what they return is ignored")
        elif result is None:
            self._outputs.require(work)
        else:
            for number, item in enumerate(result, start=1):
                await self._emit_one(work, item, last=number == len(result))

    def _emit_one(self, work: Work, value: Any, *, last: bool) -> Awaitable[None]:
        if isinstance(value, Outcome):
            raise value
        kind = MessageType.EARLY_EXIT if work.early_exit else _OK
        return self._outputs.emit(work, encode_result(value), kind=kind, last=last)

    # --- 5. settle ---

    def _finish(self, work: Work) -> None:
        """The handler is through and the last PubAck is in. Called on the loop, possibly for every message."""
        if work.finished or work.delivery.settled or self._is_over:  # given back while stopping
            return
        work.finished = True
        if work.failure is None:
            if work.wait_s is not None:
                work.reader.nak(work.delivery, work.wait_s)
                return
        elif isinstance(work.failure, Drop):  # done, and nothing comes of it
            work.failure = None
        if work.failure is None:
            if work.message.reply_to:
                self._close_reply(work)
            work.reader.ack(work.delivery)
            self._counts.ok += 1
            if work.delivery.attempt == 1:
                return
        task = self._spawn(self._failures.settle(work), f"{self._node} settles {work.delivery!r}")
        self._failing.add(task)
        task.add_done_callback(self._failing.discard)

    def _close_reply(self, work: Work) -> None:
        """Tell the caller that nothing follows, unless a message of another node may bring the answer.

        It may after an early answer that has only passed by, and where a handler of the from-node style sent none.
        """
        kind = work.message.type
        waits = kind in _EARLY or (kind is not MessageType.ERROR and self._sends_itself)
        if work.answered or not waits:
            self._outputs.close_reply(work)

    # --- the ticker ---

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            self._cancel_overdue()
            # What an ordered node has at hand blocks its partition for the other replicas.
            prefetch = 0 if self._is_ordered else self._metrics.prefetch(self._parts.concurrency)
            for reader in self._parts.readers:
                reader.prefetch = prefetch
            self._metrics.tick(sum(reader.in_hand for reader in self._parts.readers))
            if self._parts.threads.stuck >= MAX_STUCK_THREADS:
                raise RuntimeError(f"{self._parts.threads.stuck} handler calls never came back; starting afresh")

    def _cancel_overdue(self) -> None:
        now_s = self._clock.monotonic()
        for slot, work in self._running.items():
            if work is not None and work.ends_s is not None and now_s >= work.ends_s and not work.overdue:
                work.overdue = True
                slot.cancel()

    def _spawn(self, coroutine: Any, name: str) -> asyncio.Task[None]:
        """Start a task whose death ends the process: a runner that lost one would be alive and deaf."""
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._on_task_end)
        return task

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None or self.failed.done():
            return
        self.failed.set_exception(error)


_END: Any = object()
# Looked up once: reading a member of an enumeration costs as much as a call, and these are read for every message.
_OK = MessageType.OK
_EARLY = (MessageType.EARLY_REPLY, MessageType.EARLY_EXIT)
_ASYNC = CallKind.ASYNC


def _failure_of(work: Work, error: BaseException) -> BaseException:
    """Return what decides about this one message, whatever it is. Raises what is not for a message to decide about."""
    if isinstance(error, asyncio.CancelledError):  # the handler awaited something that was cancelled
        if _is_stopping(work):  # nothing is settled, `close` of the reader gives it back
            raise error
    elif isinstance(error, BusClosedError) or not isinstance(error, (Exception, SystemExit)):
        raise error  # the process is about to end, and the message comes again
    return error


def _is_stopping(work: Work) -> bool:
    """Say whether this slot was cancelled by `stop`, not for being overdue and not by the handler's own doing."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > int(work.overdue)


def _uncancel() -> None:
    """Take back the ticker's cancellation: a task that stays cancelled breaks the next handler's task groups."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
