"""Nodes of kind `dispatch` and runners of algorithms as processes on a real nats-server: no job is lost."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from runtime.spec.node import DispatchSpec
from test.integration.conftest import OpenWorkbench
from test.support.algorithms import open_bench
from test.support.node import node_spec
from test.support.runtime_child import PATIENCE_S

SPEC = node_spec(dispatch=DispatchSpec(wait_for_runner_s=30.0))

SQUARES = """
import time

def run_square(number: int) -> int:
    time.sleep(0.005)
    return number * number
"""
# Says when it has begun, and ends only where it has begun before.
ONCE_FOR_EVER = """
import pathlib, time

def run_square(number: int, flag: str) -> int:
    if not pathlib.Path(flag).exists():
        pathlib.Path(flag).touch()
        time.sleep(600)
    return number * number
"""


def job(number: int, **arguments: str) -> dict[str, object]:
    return {"algorithm": "square", "payload": {"number": number, **arguments}, "number": number}


async def begun(flag: Path) -> None:
    """Wait until the algorithm has begun, which it tells by a file."""

    def look() -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not flag.exists():
            assert time.monotonic() < give_up_s, "the algorithm does not begin"
            time.sleep(0.005)

    await asyncio.to_thread(look)


@pytest.mark.attack
@pytest.mark.timeout(120)
async def test_dispatchers_and_runners_killed_under_load_lose_no_job(open_workbench: OpenWorkbench) -> None:
    workbench = await open_workbench("", ack_wait_s=2.0)
    total = 400
    async with open_bench(workbench.url, workbench.folder / "runners") as runners:
        dispatchers = [await workbench.start_child(SPEC) for _ in range(2)]
        await workbench.feed(job(number) for number in range(total))
        serving = [await runners.start(SQUARES, name, RUNNER_NAME=name) for name in ("one", "two")]

        for round_number, seen in enumerate(sorted(random.sample(range(50, total - 100), 4))):
            await workbench.see(seen)
            if round_number % 2:
                serving.pop(0).kill()
                name = f"again{round_number}"
                serving.append(await runners.start(SQUARES, name, RUNNER_NAME=name))
            else:
                dispatchers.pop(0).kill()
                dispatchers.append(await workbench.start_child(SPEC))
        results = await workbench.see(total, patience_s=60)
        await workbench.settled()

    assert sorted(result["number"] for result in results) == list(range(total))
    assert all(result["result"] == result["number"] ** 2 for result in results)
    assert await workbench.stored() == total
    assert await workbench.dead_letters() == 0


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_a_job_whose_runner_dies_with_it_is_done_by_another(open_workbench: OpenWorkbench) -> None:
    workbench = await open_workbench("", ack_wait_s=2.0)
    flag = workbench.folder / "begun"
    async with open_bench(workbench.url, workbench.folder / "runners") as runners:
        first = await runners.start(ONCE_FOR_EVER, "first", RUNNER_NAME="first")
        await workbench.start_child(node_spec(timeout_s=60.0, dispatch=DispatchSpec()))
        await workbench.feed([job(7, flag=str(flag))])
        await begun(flag)

        first.kill()
        await runners.start(ONCE_FOR_EVER, "second", RUNNER_NAME="second")
        (result,) = await workbench.see(1)

    assert (result["result"], result["runner"]) == (49, "second")
    assert await workbench.dead_letters() == 0


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_a_job_whose_dispatcher_dies_is_done_by_another(open_workbench: OpenWorkbench) -> None:
    workbench = await open_workbench("", ack_wait_s=2.0)
    flag = workbench.folder / "begun"
    async with open_bench(workbench.url, workbench.folder / "runners") as runners:
        await runners.start(ONCE_FOR_EVER, ALGORITHMS_CONCURRENCY="2")
        first = await workbench.start_child(SPEC)
        await workbench.feed([job(7, flag=str(flag))])
        await begun(flag)

        first.kill()
        await workbench.start_child(SPEC)
        (result,) = await workbench.see(1)

    assert result["result"] == 49
    assert await workbench.stored() == 1


@pytest.mark.timeout(60)
async def test_a_job_without_a_runner_is_given_up_and_others_are_done(open_workbench: OpenWorkbench) -> None:
    workbench = await open_workbench("", ack_wait_s=2.0)
    async with open_bench(workbench.url, workbench.folder / "runners") as runners:
        await runners.start(SQUARES)
        await workbench.start_child(node_spec(dispatch=DispatchSpec(wait_for_runner_s=2.0)))

        await workbench.feed([{"algorithm": "cube", "payload": {}}, job(3), {"payload": {}}, job(4)])
        results = await workbench.see(2 + 2)  # the two that are given up leave an ERROR
        await workbench.settled()

    assert sorted(result["result"] for result in results if result) == [9, 16]
    assert await workbench.dead_letters() == 2
