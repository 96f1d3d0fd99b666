"""The worker threads of plain handlers."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator

import pytest

from runtime.threads import HandlerThreads

name = contextvars.ContextVar("name", default="nobody")


@pytest.fixture
async def threads() -> AsyncIterator[HandlerThreads]:
    threads = HandlerThreads(1, "work")
    yield threads
    threads.close()


async def test_a_call_returns_what_the_function_returns(threads: HandlerThreads) -> None:
    assert await threads.call(divmod, 7, 2) == (3, 1)


async def test_a_call_raises_what_the_function_raises(threads: HandlerThreads) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.call(divmod, 7, 0)


async def test_stop_iteration_becomes_an_error_of_its_own(threads: HandlerThreads) -> None:
    with pytest.raises(RuntimeError, match="the handler raised StopIteration"):
        await threads.call(next, iter(()))


async def test_the_callers_context_variables_are_seen(threads: HandlerThreads) -> None:
    name.set("ada")

    assert await threads.call(name.get) == "ada"


async def test_one_thread_is_shared_by_all_calls(threads: HandlerThreads) -> None:
    idents = {await threads.call(threading.get_ident) for _ in range(10)}

    assert len(idents) == 1
    assert idents != {threading.get_ident()}


async def test_a_call_that_was_given_up_is_replaced_and_its_thread_ends_with_it(threads: HandlerThreads) -> None:
    started, go, thread = threading.Event(), threading.Event(), []

    def stuck() -> None:
        thread.append(threading.current_thread())
        started.set()
        go.wait(10)

    calling = asyncio.create_task(threads.call(stuck))
    await asyncio.to_thread(started.wait, 5)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    stuck_while_it_runs = threads.stuck
    answer = await threads.call(lambda: "another thread")
    go.set()
    await asyncio.to_thread(thread[0].join, 5)

    assert (stuck_while_it_runs, answer, threads.stuck) == (1, "another thread", 0)
    assert not thread[0].is_alive()


async def test_a_call_that_was_given_up_before_its_turn_is_never_made(threads: HandlerThreads) -> None:
    started, go = threading.Event(), threading.Event()
    made: list[int] = []

    def first() -> None:
        started.set()
        go.wait(10)

    calling = asyncio.create_task(threads.call(first))
    await asyncio.to_thread(started.wait, 5)
    waiting = asyncio.create_task(threads.call(made.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go.set()
    await calling

    assert await threads.call(lambda: "next") == "next"
    assert (made, threads.stuck) == ([], 0)


async def test_closing_ends_the_threads() -> None:
    threads = HandlerThreads(2, "closing")
    own = [thread for thread in threading.enumerate() if thread.name.startswith("closing-")]

    threads.close()
    for thread in own:
        await asyncio.to_thread(thread.join, 5)

    assert [thread.is_alive() for thread in own] == [False, False]
