"""Sends many inputs to a workflow: a window of requests in flight, a rate without drift, a record of each result."""

import asyncio
import contextlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from runtime import errors
from runtime.cli.inputs import Convert, Input
from runtime.client import Workflow
from runtime.clock import Clock
from runtime.drivers.schedule import Schedule
from runtime.message import ReplyOutcome

# Seconds that the schedule may lag and still be caught up; what a longer stall has missed is not sent in a burst.
CATCH_UP_S = 0.25
# Outcome of a request that the feed has left behind.
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one input. outcome: `ok`, or how it failed; detail: then why."""

    input: Input
    outcome: str
    latency_s: float | None
    output: Any = None
    detail: str = ""

    @property
    def is_ok(self) -> bool:
        return self.outcome == ReplyOutcome.OK

    def record(self) -> dict[str, Any]:
        """Return the line of the results' file."""
        record = {"index": self.input.index, "line": self.input.line, "ok": self.is_ok}
        latency = {} if self.latency_s is None else {"latency_ms": round(self.latency_s * 1000, 3)}
        if self.is_ok:
            return record | {"output": self.output} | latency
        return record | {"outcome": self.outcome, "error": self.detail} | latency


@dataclass(slots=True)
class Summary:
    """What became of all inputs. latencies_s: of those that were answered with an OK."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    duration_s: float = 0.0
    is_interrupted: bool = False

    @property
    def count(self) -> int:
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        return self.count - self.outcomes[ReplyOutcome.OK]

    @property
    def throughput(self) -> float:
        """Messages that ended, well or not, per second."""
        return self.count / self.duration_s if self.duration_s else 0.0

    def percentiles_ms(self, *percents: float) -> list[float]:
        """Return the latencies in milliseconds that so many per cent of the answers did not exceed (nearest rank).

        Without any answer the list is empty.
        """
        ordered = sorted(self.latencies_s)
        ranks = (max(1, math.ceil(len(ordered) * percent / 100)) for percent in percents)
        return [ordered[rank - 1] * 1000 for rank in ranks] if ordered else []

    def add(self, result: Result) -> None:
        self.outcomes[result.outcome] += 1
        if result.is_ok and result.latency_s is not None:
            self.latencies_s.append(result.latency_s)


class Feeder:
    """One feed: `run` sends, `stop` ends it early."""

    def __init__(
        self,
        client: Workflow,
        clock: Clock,
        *,
        on_result: Callable[[Result], None],
        convert: Convert,
        window: int,
        timeout_s: float,
        rate: float | None = None,
    ) -> None:
        """Prepare. on_result: called once for every input. window: requests in flight at most. rate: per second."""
        self._summary = Summary()
        self._client = client
        self._clock = clock
        self._on_result = on_result
        self._convert = convert
        self._window = window
        self._timeout_s = timeout_s
        self._schedule = Schedule(clock, rate, catch_up_s=CATCH_UP_S)
        # A place is given back once the result is recorded, so a slow disk slows the feed down.
        self._room = asyncio.Semaphore(window)
        self._results: asyncio.Queue[Result] = asyncio.Queue()
        self._in_flight: set[asyncio.Future[Any]] = set()
        self._stopping = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Send nothing more and wait for what is in flight; when called again, leave that too."""
        if self.is_stopping:
            for future in tuple(self._in_flight):
                future.cancel()
        self._summary.is_interrupted = True
        self._stopping.set()

    async def run(self, inputs: Iterable[Input]) -> Summary:
        """Send the inputs and return when each has a result. Raises what reading them or `on_result` raises."""
        started_s = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                collector = tasks.create_task(self._collect(), name="feed results")
                await self._send_all(inputs)
                await self._wait_for_results()
                collector.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        self._summary.duration_s = self._clock.monotonic() - started_s
        return self._summary

    async def _send_all(self, inputs: Iterable[Input]) -> None:
        for one in inputs:
            await self._room.acquire()
            await self._wait_for_tick()
            if self.is_stopping:
                self._room.release()
                return
            self._send(one)

    async def _wait_for_tick(self) -> None:
        wait_s = self._schedule.wait_s()
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()

    async def _wait_for_results(self) -> None:
        """Return when every place of the window is free."""
        for _ in range(self._window):
            await self._room.acquire()

    def _send(self, one: Input) -> None:
        if one.fault:
            self._results.put_nowait(_failure(one, ReplyOutcome.INVALID, one.fault))
            return
        started_s = self._clock.monotonic()
        try:
            future = self._client.predict(self._convert(one.value), timeout_s=self._timeout_s)
        except errors.BusError as error:
            self._results.put_nowait(_failure(one, ReplyOutcome.UNAVAILABLE, str(error)))
        except errors.KrtError as error:
            self._results.put_nowait(_failure(one, ReplyOutcome.INVALID, f"line {one.line}: {error}"))
        else:
            self._in_flight.add(future)
            future.add_done_callback(lambda done: self._on_done(one, started_s, done))

    def _on_done(self, one: Input, started_s: float, future: "asyncio.Future[Any]") -> None:
        self._in_flight.discard(future)
        self._results.put_nowait(_result_of(one, self._clock.monotonic() - started_s, future))

    async def _collect(self) -> None:
        while True:
            result = await self._results.get()
            self._summary.add(result)
            self._on_result(result)
            self._room.release()


def _result_of(one: Input, latency_s: float, future: "asyncio.Future[Any]") -> Result:
    if future.cancelled():
        return _failure(one, CANCELLED, "left behind", latency_s)
    error = future.exception()
    if error is None:
        return Result(input=one, outcome=ReplyOutcome.OK, latency_s=latency_s, output=future.result())
    outcome = error.outcome if isinstance(error, errors.PredictionError) else ReplyOutcome.FAILED
    return _failure(one, outcome, str(error), latency_s)


def _failure(one: Input, outcome: str, detail: str, latency_s: float | None = None) -> Result:
    return Result(input=one, outcome=outcome, latency_s=latency_s, detail=detail)
