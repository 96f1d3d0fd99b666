"""Calls a handler with several messages at once, and gives each message its own result.

Every delivery keeps its own slot, context and end in the runner: there, the handler is `Batcher.submit`, which returns
one message's result. Behind it messages are gathered (`batching_gather.py`) and the user's function is called once for
many. The runner's limit of time does not apply, for it would run while a message waits; each call has one of its own.

What goes wrong with a call is never laid on messages that it may not be about: a call of several that raises, or is
late, is repeated in two halves, and what fails again message by message. What fails alone fails.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.clock import Clock, TimerHandle
from runtime.errors import BatchResultError, BusClosedError, Outcome
from runtime.node.batching_context import BatchContext
from runtime.node.batching_gather import Batch, Gathering, Item, Limits, cost_of
from runtime.node.batching_handler import results_of
from runtime.node.batching_limit import TimeLimit
from runtime.node.batching_tuning import Tuning
from runtime.node.context import Context, Services
from runtime.node.handler import CallKind, LoadedHandler
from runtime.node.metrics import NodeMetrics
from runtime.node.work import Work
from runtime.payload import decode_value
from runtime.spec.batching import BatchingSpec
from runtime.threads import HandlerThreads

log = logging.getLogger(__name__)

# Weight of the newest call in the time that one is expected to take.
MEAN_WEIGHT = 0.2


class Batcher:
    """Gathers the messages of one node and calls its handler, `calls` times at once."""

    def __init__(
        self,
        spec: BatchingSpec,
        handler: LoadedHandler,
        *,
        services: Services,
        threads: HandlerThreads,
        metrics: NodeMetrics,
        clock: Clock,
        calls: int,
        timeout_s: float | None,
    ) -> None:
        """timeout_s: of one call, None for no limit."""
        assert handler.default is not None, "checked when it was loaded"
        self.limits = Limits(spec)
        self._tuning = Tuning(self.limits, services.configuration, clock)
        self._by = spec.by
        self._handler = handler
        self._function = handler.default
        self._services = services
        self._threads = threads
        self._metrics = metrics
        self._clock = clock
        self._max_calls = calls
        self._timeout_s = timeout_s
        self._gathering = Gathering(self.limits)
        self._calls: dict[asyncio.Task[None], Sequence[Item]] = {}
        self._run_s = 0.0
        self._timer: TimerHandle | None = None
        self._timer_s = 0.0

    @property
    def handler(self) -> LoadedHandler:
        """The handler as the runner calls it: with one message, of which many wait at once."""
        return replace(self._handler, default=replace(self._function, function=self.submit, kind=CallKind.ASYNC))

    @property
    def slots(self) -> int:
        """Messages that the runner has to have at once: those of all calls, and of a batch that fills meanwhile."""
        return (self._max_calls + 1) * self.limits.spec.max_messages

    @property
    def waiting(self) -> int:
        """Messages that wait for others, or for a free call."""
        return self._gathering.waiting

    async def open(self) -> None:
        """Take the limits that the configuration has, before the first message."""
        await self._tuning.read()

    async def submit(self, context: Context, data: Any) -> Any:
        """Return the result of one message: its value, None for no output, or an outcome; or raise what it fails with.

        Cancelling takes the message out of its batch; a call that nobody waits for any more is cancelled.
        """
        item = self._item(context, data)
        self._gathering.add(item, self._run_s)
        self._start_what_is_due(self._clock.monotonic())
        try:
            return await item.result
        except asyncio.CancelledError:
            if item.result.cancelled():
                self._leave(item)
            raise

    def hurry(self) -> None:
        """Let go what has been gathered, and everything from now on: the node takes no more messages."""
        self._tuning.close()
        self._gathering.hurry()
        self._start_what_is_due(self._clock.monotonic())

    # --- gathering ---

    def _item(self, context: Context, data: Any) -> Item:
        work = context._work
        assert work is not None, "the runner gives every message a context of its own"
        now_s = self._clock.monotonic()
        deadline_s = float("inf")
        if work.message.deadline_ms:
            deadline_s = now_s + work.message.deadline_ms / 1e3 - self._clock.time_ns() / 1e9
        cost = self._cost(work, data) if self._by else 0.0
        return Item(context, work, data, cost=cost, now_s=now_s, deadline_s=deadline_s)

    def _cost(self, work: Work, data: Any) -> float:
        """Return what a message costs. Data that nobody has read yet is looked at as JSON."""
        is_raw = self._function.annotation is Any
        return cost_of(decode_value(work.message.payload) if is_raw else data, self._by)

    def _leave(self, item: Item) -> None:
        self._gathering.discard(item)
        for task, items in self._calls.items():
            if item in items and all(each.result.done() for each in items):
                task.cancel()

    def _start_what_is_due(self, now_s: float) -> None:
        while len(self._calls) < self._max_calls:
            batch = self._gathering.take(now_s)
            if batch is None:
                self._set_timer()
                return
            self._start(batch)

    def _start(self, batch: Batch) -> None:
        task = asyncio.create_task(self._settle_all(batch.items), name=f"{self._services.node} batch")
        self._calls[task] = batch.items
        task.add_done_callback(self._on_end)

    def _set_timer(self) -> None:
        """Come back when the open batch goes. A timer that is set for earlier stays: it will set the next one."""
        goes_s = self._gathering.goes_s
        if goes_s == float("inf") or (self._timer is not None and self._timer_s <= goes_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = goes_s
        self._timer = self._clock.call_later(goes_s - self._clock.monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        # Not the clock alone: it may be a rounding error early, and would then be asked again for ever.
        self._start_what_is_due(max(self._clock.monotonic(), self._timer_s))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A call is over. Whatever ended it, no message waits for ever."""
        items = self._calls.pop(task)
        failure = None if task.cancelled() else task.exception()
        for item in items:
            if not item.result.done():
                item.result.set_exception(failure or RuntimeError("the call of its batch was cancelled"))
        self._start_what_is_due(self._clock.monotonic())

    # --- calling ---

    async def _settle_all(self, items: Sequence[Item]) -> None:
        now_s = self._clock.monotonic()
        self._metrics.observe_batch(len(items), now_s - items[0].arrived_s)
        self._tuning.look()
        await self._settle(items)

    async def _settle(self, items: Sequence[Item], *, is_part: bool = False) -> None:
        """Give every message its result, by further calls where one fails. is_part: of a batch whose call failed."""
        items = [item for item in items if not item.result.done()]
        if not items:
            return
        failure = await self._call(items)
        if failure is None:
            self.limits.fitted(len(items))
            return
        if len(items) == 1 or isinstance(failure, (BatchResultError, BusClosedError)):
            for item in items:
                if not item.result.done():
                    item.result.set_exception(failure)
            return
        exhausted = is_out_of_memory(failure)
        if exhausted:
            self.limits.out_of_memory(len(items))
        log.warning(
            "a call with %d messages failed (%s: %s); they are called again in smaller groups",
            len(items), type(failure).__name__, failure, extra={"action": "batch_split"},
        )  # fmt: skip
        # A shortage of memory is about their number, so that halves may be halved again.
        for part in _halves(items) if exhausted or not is_part else [[item] for item in items]:
            await self._settle(part, is_part=is_part or not exhausted)

    async def _call(self, items: Sequence[Item]) -> BaseException | None:
        """Call the handler once and hand out its results; returns what went wrong with the call as a whole."""
        limit = TimeLimit(self._clock, self._timeout_s)
        context = BatchContext(self._services, [item.context for item in items], limit)
        started_s = self._clock.monotonic()
        for item in items:
            self._begin(item)
            item.work.start(started_s, None)
        try:
            with limit:
                returned = await self._run(context, [item.data for item in items])
            _hand_out(results_of(returned, len(items)), items)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # nobody waits any more
                raise
            return error  # the handler awaited something that was cancelled
        except (Exception, SystemExit) as error:  # whatever it is, it decides about these messages only
            return error
        finally:
            self._run_s += (self._clock.monotonic() - started_s - self._run_s) * MEAN_WEIGHT
        return None

    def _begin(self, item: Item) -> None:
        """Make a message ready for a call. A further one gets it as it came, whatever the first has done to it."""
        if item.called:
            item.work.begin_again()
            if item.work.message.payload:
                item.data = self._function.decode(item.work.message.payload)
        item.called = True

    async def _run(self, context: BatchContext, data: list[Any]) -> Any:
        if self._function.kind is CallKind.ASYNC:
            return await self._function.function(context, data)
        return await self._threads.call(self._function.function, context, data)


def _hand_out(results: Sequence[Any], items: Sequence[Item]) -> None:
    for item, result in zip(items, results, strict=True):
        if item.result.done():  # it has left meanwhile
            continue
        if isinstance(result, Exception) and not isinstance(result, Outcome):
            item.result.set_exception(result)
        else:
            item.result.set_result(result)


def _halves(items: Sequence[Item]) -> list[Sequence[Item]]:
    middle = (len(items) + 1) // 2
    return [items[:middle], items[middle:]]


# Classes by which libraries that are not imported here say that memory has run out: PyTorch, CuPy.
_OUT_OF_MEMORY_CLASSES = {"OutOfMemoryError"}
# The words of those that have no class for it: ONNX Runtime, JAX, CUDA itself.
_OUT_OF_MEMORY_WORDS = ("out of memory", "failed to allocate", "resource_exhausted")


def is_out_of_memory(failure: BaseException) -> bool:
    """Say whether a call failed because its messages are too much for the memory of the machine or the device."""
    if isinstance(failure, MemoryError) or type(failure).__name__ in _OUT_OF_MEMORY_CLASSES:
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY_WORDS)
