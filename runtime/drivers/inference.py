"""A workflow as a driver sees it: `RestrictedInferenceProcess` over one client, usable from every thread.

The client lives on the event loop. A call from another thread is made there and waited for, which costs that thread
some 100 µs and keeps the order of its calls; on the loop itself nothing is handed over.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from runtime.bus.base import Bus
from runtime.client import DEFAULT_TIMEOUT_S, Reply, Route, Workflow
from runtime.clock import Clock
from runtime.drivers.base import WorkflowSchema
from runtime.drivers.loop_thread import call_on_loop
from runtime.wire import MAX_CLAIM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowView:
    """What is known of a deployed workflow.

    output_subjects: of its answers, and of the ERRORs in their place. find_schema: called from any thread; quick.
    timeout_s: until the deadline of a request that says nothing about it. route: of a workflow that others run.
    max_claim_bytes: of one request or answer.
    """

    name: str
    stream: str
    output_subjects: tuple[str, ...] = ()
    find_schema: Callable[[], WorkflowSchema] = WorkflowSchema
    timeout_s: float = DEFAULT_TIMEOUT_S
    route: Route | None = None
    max_claim_bytes: int = MAX_CLAIM_BYTES


class Inference:
    """See `base.RestrictedInferenceProcess`. To be opened with `async with`, on the loop of the bus."""

    def __init__(
        self,
        bus: Bus,
        view: WorkflowView,
        clock: Clock,
        *,
        driver: str = "",
        stopping: threading.Event | None = None,
    ) -> None:
        self.driver = driver
        self.bus = bus
        self.clock = clock
        self.workflow = view.name
        self.stream = view.stream
        self.output_subjects = view.output_subjects
        self.stopping = stopping or threading.Event()
        self.in_flight = 0
        self._find_schema = view.find_schema
        self._timeout_s = view.timeout_s
        self._client = Workflow(bus, view.stream, clock=clock, route=view.route, max_claim_bytes=view.max_claim_bytes)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    async def __aenter__(self) -> Self:
        await self._client.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def held(self) -> bool:
        return self._client.held

    @property
    def schema(self) -> WorkflowSchema:
        return self._find_schema()

    def predict(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> "Prediction":
        def send() -> Prediction:
            answer = self._client.predict(
                inputs, state_id=sid, timeout_s=self._seconds(timeout), headers=headers, request_id=request_id
            )
            self.in_flight += 1
            answer.add_done_callback(self._note_end)
            return Prediction(answer)

        if threading.get_ident() == self._thread:
            return send()
        return call_on_loop(self._loop, send)

    async def predict_all(
        self,
        inputs: Any,
        sid: str = "",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        comes_again: bool = False,
    ) -> AsyncIterator[Reply]:
        replies = self._client.predict_all(
            inputs,
            state_id=sid,
            timeout_s=self._seconds(timeout),
            headers=headers,
            request_id=request_id,
            comes_again=comes_again,
        )
        self.in_flight += 1
        try:
            async for reply in replies:
                yield reply
        finally:
            self.in_flight -= 1

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout_s if timeout is None else timeout

    def _note_end(self, _: object) -> None:
        self.in_flight -= 1


class Prediction:
    """See `base.PredictionFuture`. To be made on the loop of the answer."""

    def __init__(self, answer: "asyncio.Future[Any]") -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._answer = answer
        # The same answer for other threads, and for other loops.
        self._result: concurrent.futures.Future[Any] = concurrent.futures.Future()
        answer.add_done_callback(self._copy)
        self._result.add_done_callback(self._pass_cancel)

    def result(self, timeout: float | None = None) -> Any:
        self._check_thread()
        return self._result.result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check_thread()
        return self._result.exception(timeout)

    def done(self) -> bool:
        return self._result.done()

    def cancel(self) -> bool:
        return self._result.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        if asyncio.get_running_loop() is self._loop:
            return self._answer.__await__()
        return asyncio.wrap_future(self._result).__await__()

    def _check_thread(self) -> None:
        if threading.get_ident() == self._thread and not self._result.done():
            raise RuntimeError("result() would block the loop that brings the answer; await the future instead")

    def _copy(self, answer: "asyncio.Future[Any]") -> None:
        if answer.cancelled():
            self._result.cancel()
        elif self._result.set_running_or_notify_cancel():
            if (error := answer.exception()) is not None:
                self._result.set_exception(error)
            else:
                self._result.set_result(answer.result())

    def _pass_cancel(self, result: "concurrent.futures.Future[Any]") -> None:
        if result.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the request has ended with it
                self._loop.call_soon_threadsafe(self._answer.cancel)
