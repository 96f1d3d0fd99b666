"""A cancellation that nats-py's waiting has lost reaches the task all the same."""

import asyncio

import pytest

from runtime.bus.cancellation import kept_cancellation


async def wait_and_lose_the_cancellation() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass


async def test_a_lost_cancellation_ends_a_task_that_loops() -> None:
    async def loop_for_ever() -> None:
        while True:
            with kept_cancellation():
                await wait_and_lose_the_cancellation()

    looping = asyncio.create_task(loop_for_ever())
    await asyncio.sleep(0)

    looping.cancel()

    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await looping


async def test_a_lost_timeout_is_one_all_the_same() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            with kept_cancellation():
                await wait_and_lose_the_cancellation()


async def test_what_a_cancelled_task_does_at_its_end_goes_on() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with kept_cancellation():
                await asyncio.sleep(0)
            cleaned.append("cleaned")

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()

    await asyncio.gather(working, return_exceptions=True)
    assert cleaned == ["cleaned"]
