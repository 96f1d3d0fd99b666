"""Concurrency, deadlines, and what keeps flowing while algorithms compute or never end."""

import asyncio
import time

import pytest

from test.support.algorithms import Bench

ADAPTER = """
import asyncio, pathlib, time

HERE = pathlib.Path(__file__).parent

def run_block():
    (HERE / "blocked").touch()
    while not (HERE / "free").exists():
        time.sleep(0.01)
    return "freed"

def run_spin(seconds: float):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

async def run_sleep():
    await asyncio.sleep(3600)

def run_quick():
    return 1

run_block.timeout = "300ms"
run_sleep.timeout = 0.2
"""


async def test_a_blocked_thread_keeps_its_slot_and_is_told_as_overdue(bench: Bench) -> None:
    await bench.start(ADAPTER)

    first = await bench.fails(bench.client.run("block"))
    assert (first.outcome, first.detail) == ("timeout", "no result within 0.3 s")
    assert await bench.stats("block") == {"running": 1, "waiting": 0, "overdue": 1}

    # Two may wait for the only slot; of three more, one is refused at once.
    calls = [asyncio.ensure_future(bench.client.run("block", timeout=10)) for _ in range(3)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    [busy] = done
    assert (await bench.fails(busy)).outcome == "busy" and len(waiting) == 2
    assert await bench.client.run("quick") == 1

    (bench.folder / "images" / "free").touch()
    assert [await call for call in waiting] == ["freed", "freed"]
    await bench.until_stats("block", overdue=0, running=0)


async def test_a_blocked_process_is_killed_and_its_slot_is_free(bench: Bench) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION="process")

    error = await bench.fails(bench.client.run("block"))

    assert error.outcome == "timeout"
    await bench.until_stats("block", overdue=0, running=0)
    (bench.folder / "images" / "free").touch()
    assert await bench.client.run("block") == "freed"


async def test_a_coroutine_that_overruns_is_cancelled(bench: Bench) -> None:
    await bench.start(ADAPTER)

    assert (await bench.fails(bench.client.run("sleep"))).outcome == "timeout"

    await bench.until_stats("sleep", overdue=0, running=0)


async def test_a_deadline_before_the_timeout_counts(bench: Bench) -> None:
    await bench.start(ADAPTER)
    started = time.monotonic()

    error = await bench.fails(bench.client.run("spin", {"seconds": 5}, timeout=0.3))

    assert error.outcome == "timeout" and time.monotonic() - started < 3


async def test_waiting_calls_whose_deadline_has_passed_make_room(bench: Bench) -> None:
    await bench.start(ADAPTER)
    await bench.fails(bench.client.run("block"))
    expired = [bench.client.run("block", timeout=0.05) for _ in range(2)]
    for error in await asyncio.gather(*expired, return_exceptions=True):
        assert getattr(error, "outcome", "") == "timeout"

    later = asyncio.ensure_future(bench.client.run("block", timeout=10))
    await bench.until_stats("block", waiting=1)
    (bench.folder / "images" / "free").touch()

    assert await later == "freed"


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_ping_is_answered_while_every_slot_computes(bench: Bench, isolation: str) -> None:
    await bench.start(ADAPTER, ALGORITHMS_CONCURRENCY="2", ALGORITHMS_ISOLATION=isolation)
    calls = [asyncio.ensure_future(bench.client.run("spin", {"seconds": 3})) for _ in range(2)]
    await bench.until_stats("spin", running=2)
    times_ms = []

    for _ in range(30):
        begun = time.perf_counter()
        await bench.bus.request("$SRV.PING.algorithms-images", b"", timeout_s=5)
        times_ms.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.01)

    assert not any(call.done() for call in calls)
    assert sorted(times_ms)[-3] <= 100, sorted(times_ms)
    await asyncio.gather(*calls)
