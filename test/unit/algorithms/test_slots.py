"""The calls of one algorithm: run, wait, busy, overdue; each is answered exactly once."""

import asyncio
from functools import partial

from runtime.algorithms.executors import Execution, Place
from runtime.algorithms.slots import Call, Slots
from runtime.algorithms.wire import Answer, Failure, Outcome
from runtime.clock import FakeClock, SystemClock

GONE = Failure(outcome=Outcome.UNAVAILABLE, detail="gone")


class Begun:
    """A call whose end the test decides."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.given_up = False
        self.end: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.answer = asyncio.create_task(self._run())

    def give_up(self) -> None:
        self.given_up = True

    async def _run(self) -> Answer:
        return await self.end


class FakeExecutor:
    """Begins calls and lets them stand; `failure` is what there is in place of a place."""

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.released = 0
        self.failure: Failure | None = None
        self._news = asyncio.Event()

    async def place(self) -> Place | Failure:
        return self.failure or self

    def begin(self, name: str, body: bytes) -> Execution:
        self.begun.append(Begun(body))
        self._news.set()
        return self.begun[-1]

    def release(self) -> None:
        self.released += 1

    async def close(self) -> None:
        return

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.begun) < count:
                self._news.clear()
                await self._news.wait()


class Calls:
    """Makes calls and keeps their answers, by name."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.answers: dict[str, list[Answer]] = {}
        self._news = asyncio.Event()

    def offer(self, *names: str, deadline_ms: int = 0) -> None:
        for name in names:
            self.answers[name] = []
            call = Call(
                deadline_ms=deadline_ms,
                body=partial(self._body, name),
                answer=partial(self._answer, name),
                refuse=partial(self._note, name),
            )
            self.slots.offer(call)

    def outcomes(self) -> dict[str, list[str]]:
        return {
            name: [each.outcome if isinstance(each, Failure) else each.decode() for each in answers]
            for name, answers in self.answers.items()
        }

    async def until_answered(self, name: str) -> None:
        async with asyncio.timeout(5):
            while not self.answers[name]:
                self._news.clear()
                await self._news.wait()

    async def _body(self, name: str) -> bytes | Failure:
        return GONE if name == "unreadable" else name.encode()

    async def _answer(self, name: str, answer: Answer) -> None:
        self._note(name, answer)
        if name == "unsendable":
            raise OSError("no network")

    def _note(self, name: str, answer: Answer) -> None:
        self.answers[name].append(answer)
        self._news.set()


def bench(
    *, concurrency: int = 1, timeout_s: float = 60.0, clock: FakeClock | None = None
) -> tuple[Calls, FakeExecutor]:
    executor = FakeExecutor()
    slots = Slots("ocr", executor, clock or SystemClock(), concurrency=concurrency, timeout_s=timeout_s)
    return Calls(slots), executor


async def test_one_runs_two_wait_and_the_fourth_is_busy() -> None:
    calls, executor = bench()

    calls.offer("a", "b", "c", "d")

    assert calls.outcomes() == {"a": [], "b": [], "c": [], "d": ["busy"]}
    for number, name in enumerate(("a", "b", "c"), 1):
        await executor.until(number)
        executor.begun[-1].end.set_result(name.upper().encode())
        await calls.until_answered(name)
    await calls.slots.idle()
    assert [each.body for each in executor.begun] == [b"a", b"b", b"c"]


async def test_the_counters_tell_requests_errors_and_the_last_of_them() -> None:
    calls, executor = bench(concurrency=2)
    calls.offer("a", "b")
    await executor.until(2)
    executor.begun[0].end.set_result(b"A")
    executor.begun[1].end.set_result(Failure(outcome=Outcome.FAILED, detail="no luck"))

    await calls.slots.idle()

    stats = calls.slots.stats
    assert (stats.requests, stats.errors, stats.last_error) == (2, 1, "failed: no luck")


async def test_an_overdue_call_is_answered_once_and_keeps_its_slot() -> None:
    calls, executor = bench(timeout_s=0.01)
    calls.offer("a")
    await calls.until_answered("a")
    calls.offer("b")

    await asyncio.sleep(0)
    assert executor.begun[0].given_up and calls.slots.stats.data == {"running": 1, "waiting": 1, "overdue": 1}
    executor.begun[0].end.set_result(b"late")
    await executor.until(2)

    assert calls.outcomes()["a"] == ["timeout"] and calls.slots.stats.data["overdue"] == 0
    executor.begun[1].end.set_result(b"B")
    await calls.until_answered("b")


async def test_calls_past_their_deadline_are_not_begun_and_make_room() -> None:
    clock = FakeClock()
    calls, executor = bench(clock=clock)
    calls.offer("running")
    await executor.until(1)
    soon_ms = clock.time_ns() // 1_000_000 + 100
    calls.offer("a", "b", deadline_ms=soon_ms)
    await clock.advance(0.2)

    calls.offer("c")

    assert calls.outcomes() == {"running": [], "a": ["timeout"], "b": ["timeout"], "c": []}
    calls.offer("d", deadline_ms=soon_ms)
    executor.begun[0].end.set_result(b"done")
    await executor.until(2)
    executor.begun[1].end.set_result(b"C")
    await calls.until_answered("d")
    assert calls.outcomes()["d"] == ["timeout"] and executor.released == 1


async def test_what_is_left_is_refused_once() -> None:
    calls, executor = bench()
    calls.offer("a", "b")
    await executor.until(1)

    calls.slots.refuse_all(GONE)
    executor.begun[0].end.set_result(b"A")
    await calls.slots.idle()
    await asyncio.sleep(0)

    assert calls.outcomes() == {"a": ["unavailable"], "b": ["unavailable"]}


async def test_a_body_or_a_place_that_cannot_be_had_is_told() -> None:
    calls, executor = bench()
    calls.offer("unreadable")
    await calls.until_answered("unreadable")
    executor.failure = Failure(outcome=Outcome.FAILED, detail="no worker")
    calls.offer("a")
    await calls.until_answered("a")

    assert calls.outcomes() == {"unreadable": ["unavailable"], "a": ["failed"]} and executor.begun == []


async def test_an_answer_that_cannot_be_sent_does_not_end_the_slot() -> None:
    calls, executor = bench()
    calls.offer("unsendable", "b")
    await executor.until(1)
    executor.begun[0].end.set_result(b"A")

    await executor.until(2)
    executor.begun[1].end.set_result(b"B")
    await calls.until_answered("b")

    assert calls.outcomes()["b"] == ["B"]


async def test_a_call_that_comes_as_a_slot_ends_is_run() -> None:
    calls, executor = bench()
    for number in range(1, 50):
        calls.offer(f"c{number}")
        await executor.until(number)
        executor.begun[-1].end.set_result(b"x")
        await calls.slots.idle()
