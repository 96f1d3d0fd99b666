"""A loop on a thread of its own, for plain code and for other loops."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from runtime.drivers.loop_thread import LoopThread
from runtime.errors import BusClosedError


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread("tested")
    yield made
    made.stop()


async def name_of_thread() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def fail() -> None:
    raise ConnectionError("away")


def test_a_plain_call_runs_on_the_loop_and_waits_for_its_result(thread: LoopThread) -> None:
    assert thread.call(name_of_thread()) == "tested"
    with pytest.raises(ConnectionError, match="away"):
        thread.call(fail())


async def test_another_loop_awaits_the_result(thread: LoopThread) -> None:
    assert await thread.acall(name_of_thread()) == "tested"
    with pytest.raises(ConnectionError, match="away"):
        await thread.acall(fail())


def test_a_call_on_the_loop_itself_is_awaited_there_and_never_waited_for(thread: LoopThread) -> None:
    async def inside() -> str:
        with pytest.raises(RuntimeError, match="await its form with an `a`"):
            thread.call(name_of_thread())
        return await thread.acall(name_of_thread())

    assert thread.call(inside()) == "tested"


async def test_whoever_stops_waiting_cancels_the_call(thread: LoopThread) -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    calling = asyncio.create_task(thread.acall(wait()))
    assert await asyncio.to_thread(began.wait, 5)
    calling.cancel()

    assert await asyncio.to_thread(cancelled.wait, 5)


def test_after_its_end_every_call_is_refused_and_no_thread_is_left() -> None:
    threads = threading.active_count()
    thread = LoopThread("tested")

    thread.stop()
    thread.stop()

    assert (thread.is_alive, threading.active_count()) == (False, threads)
    with pytest.raises(BusClosedError, match="has been stopped"):
        thread.call(name_of_thread())
