"""One call of some models at once: from their requests to one ending for each, at the latest at the deadline.

    ready, small body    one scatter for all: no task and no timer of their own
    large body           packed once for all that share it, then the same
    not set up           set up first; so is a model whose host says that it has no instance
    packed answer        unpacked and decoded beside the loop

Only what is in the last three lines costs a task. Nothing is waited for once every model has its ending.
"""

import asyncio
import operator
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from runtime.bus.core import CoreMessage, Headers, Question, Scattered
from runtime.errors import BusError, DecodeError, MessageError
from runtime.models.answers import read_call, without_answer
from runtime.models.link import HostLink
from runtime.models.results import Ending, Reason
from runtime.models.wire import CALL, CALL_ID_HEADER, DEADLINE_HEADER, HostState

if TYPE_CHECKING:
    from runtime.models.model_runner import ModelRunner

_US_PER_S = 1_000_000
_last_time_us = operator.attrgetter("last_time_us")


class FanOut:
    """Calls models once. endings, times_us: how it ended with each, and after how many microseconds."""

    def __init__(self, link: HostLink, models: Sequence["ModelRunner"], timeout_s: float, call_id: str = "") -> None:
        """Begin: the time runs from here on. A model that is not given to `run` ends with `end`.

        call_id: under which hosts remember their answer, for a call that may be repeated; "" for one of its own.
        """
        self.endings: dict[ModelRunner, Ending] = {}
        self.times_us: dict[ModelRunner, int] = {}
        self._link = link
        self._timeout_s = timeout_s
        self._open = set(models)
        self._started_s = link.clock.monotonic()
        self._deadline_ms = link.deadline_ms(timeout_s)
        self._call_id = call_id or link.new_call_id()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scattered: list[Scattered] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # Models whose host had no instance and that have been set up in this call.
        self._repeated: set[ModelRunner] = set()

    async def run(self, requests: Mapping["ModelRunner", bytes]) -> None:
        """Send every model its request, and return when each has an ending. Cancelling it gives all of them up."""
        timer = self._link.clock.call_later(max(0.0, self._timeout_s - self._elapsed_s()), self._expire)
        self._link.open_calls.add(self)
        try:
            self._send(requests)
            if self._open:
                await self._over
        finally:
            self._link.open_calls.discard(self)
            timer.cancel()
            for scattered in self._scattered:
                scattered.close()
            for task in self._tasks:
                task.cancel()

    def end(self, model: "ModelRunner", ending: Ending) -> None:
        """Note how the call has ended with a model; only the first ending counts."""
        if model not in self._open:
            return
        # Its host has told that it stops, and then let go of the call.
        if ending.reason is Reason.UNAVAILABLE and model.state is HostState.STOPPING:
            ending = Ending(Reason.CLOSED, ending.text)
        self._open.discard(model)
        self.endings[model] = ending
        self.times_us[model] = time_us = round(self._elapsed_s() * _US_PER_S)
        if ending.reason is Reason.OK:
            model.last_time_us = time_us
        if not self._open and not self._over.done():
            self._over.set_result(None)

    def leave(self, model: "ModelRunner", why: str) -> None:
        """A model is no more: it left, was replaced or stopped."""
        self.end(model, Ending(Reason.CLOSED, why))

    # --- questions ---

    def _send(self, requests: Mapping["ModelRunner", bytes]) -> None:
        sharing: dict[bytes, list[ModelRunner]] = {}
        # The call is over when the slowest model has answered, which therefore hears of it first.
        for model in sorted(requests, key=_last_time_us, reverse=True):
            data = requests[model]
            if model.is_ready:
                sharing.setdefault(data, []).append(model)
            elif (why_not := model.why_not) is not None:
                self.end(model, why_not)
            else:
                self._start(self._ask_after_setup(model, data), f"call {model.model_id}")
        small: list[tuple[ModelRunner, bytes]] = []
        for data, models in sharing.items():
            if self._link.fits(len(data), len(models)):
                small += [(model, data) for model in models]
            else:
                self._start(self._pack_and_ask(models, data), f"call of {len(models)} models with a large body")
        if small:
            self._start(self._ask(small), f"call of {len(small)} models")

    async def _pack_and_ask(self, models: Sequence["ModelRunner"], data: bytes) -> None:
        try:
            body = await self._link.pack(data, len(models))
        except (BusError, MessageError) as error:
            self._end_all(models, without_answer(error))
            return
        await self._ask([(model, body.data) for model in models], body.headers)

    async def _ask(self, pairs: Sequence[tuple["ModelRunner", bytes]], headers: Headers | None = None) -> None:
        """Send each model its body. headers: what tells how the bodies were packed."""
        models = [model for model, _ in pairs]
        told = {CALL_ID_HEADER: self._call_id, **(headers or {})}
        # Hosts whose clocks are alike share one mapping, which is encoded once.
        by_clock: dict[int, Headers] = {}
        for behind_ms in {model.behind_ms for model in models}:
            by_clock[behind_ms] = {DEADLINE_HEADER: str(self._deadline_ms - behind_ms), **told}
        questions = [Question(model.subject(CALL), data, by_clock[model.behind_ms]) for model, data in pairs]
        try:
            self._scattered.append(await self._link.bus.scatter(questions, partial(self._on_answer, pairs)))
        except (BusError, MessageError) as error:
            self._end_all(models, without_answer(error))

    async def _ask_after_setup(self, model: "ModelRunner", data: bytes) -> None:
        """Set a model up, then ask it, all within the deadline."""
        self._repeated.add(model)
        ending = await model.set_up()
        if ending.reason is not Reason.OK:
            self.end(model, ending)
        elif (why_not := model.why_not) is not None:
            self.end(model, why_not)
        else:
            await self._pack_and_ask([model], data)

    # --- answers ---

    def _on_answer(
        self, pairs: Sequence[tuple["ModelRunner", bytes]], number: int, answer: CoreMessage | BusError
    ) -> None:
        model, data = pairs[number]
        if model not in self._open:
            return
        if isinstance(answer, BusError):
            self.end(model, without_answer(answer))
        elif self._link.is_packed(answer):
            self._start(self._unpack(model, answer, data), f"answer of {model.model_id}")
        else:
            self._take(model, read_call(answer.headers, answer.data), data)

    async def _unpack(self, model: "ModelRunner", answer: CoreMessage, data: bytes) -> None:
        """Read an answer that is larger than a message."""
        try:
            body = await self._link.unpack(answer)
        except DecodeError as error:
            self.end(model, Ending(Reason.DECODE, str(error)))
        except BusError as error:
            self.end(model, Ending(Reason.CONNECTION_LOST, f"its answer cannot be fetched: {error}"))
        else:
            self._take(model, await asyncio.to_thread(read_call, answer.headers, body), data)

    def _take(self, model: "ModelRunner", ending: Ending, data: bytes) -> None:
        if ending.reason is not Reason.NOT_SET_UP or model in self._repeated:
            self.end(model, ending)
            return
        model.forget_setup()
        self._start(self._ask_after_setup(model, data), f"call {model.model_id} again")

    def _expire(self) -> None:
        lost = self._link.bus.online_s < self._elapsed_s()
        reason = Reason.CONNECTION_LOST if lost else Reason.DEADLINE_EXCEEDED
        self._end_all(list(self._open), Ending(reason, f"no answer within {self._timeout_s:g} s"))

    def _end_all(self, models: Sequence["ModelRunner"], ending: Ending) -> None:
        for model in models:
            self.end(model, ending)

    # --- tasks ---

    def _elapsed_s(self) -> float:
        return self._link.clock.monotonic() - self._started_s

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        """Let the caller have what one has died of, which is a defect of ours."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._over.done():
            self._over.set_exception(error)
