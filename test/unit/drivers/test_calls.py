"""The methods of a component: plain ones in one thread, coroutines on the loop, and one that hangs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from runtime.drivers.calls import Calls


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    calls = Calls("component")
    yield calls
    calls.end()


async def test_plain_methods_share_one_thread_and_coroutines_the_loop(calls: Calls) -> None:
    async def on_loop() -> int:
        return threading.get_ident()

    def numbers() -> Iterator[int]:
        while True:
            yield threading.get_ident()

    iterated = calls.iterate(numbers)
    threads = {await calls.call(threading.get_ident), await anext(iterated), await anext(iterated)}
    await iterated.aclose()

    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert await calls.call(on_loop) == threading.get_ident()


async def test_an_iterator_is_closed_in_its_thread_when_it_is_left(calls: Calls) -> None:
    closed_in: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed_in.append(threading.current_thread().name)

    iterated = calls.iterate(numbers)
    assert await anext(iterated) == 0
    await iterated.aclose()

    assert closed_in == ["component"]


async def test_errors_come_through_and_none_ends_the_process(calls: Calls) -> None:
    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(OSError, match="no disk"):
        await calls.call(fail, OSError("no disk"))
    with pytest.raises(RuntimeError, match="SystemExit"):
        await calls.call(fail, SystemExit(3))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await calls.call(fail, StopIteration())
    assert await calls.call(lambda: 7) == 7


async def test_close_reaches_a_component_whose_thread_hangs(calls: Calls) -> None:
    released = threading.Event()
    reading = asyncio.create_task(calls.call(released.wait))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

    async with asyncio.timeout(5):
        await calls.close(released.set)

    assert released.is_set()
