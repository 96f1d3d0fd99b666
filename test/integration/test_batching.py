"""Batches on a real server: poison, kills and stops; every message ends once, whoever its neighbours were."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runtime.deadletter import HEADER, DeadLetter
from runtime.spec.batching import BatchingSpec
from runtime.spec.node import NodeSpec, RetryPolicy
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.kill_at import BATCHING_POINTS
from test.support.node import DEAD_LETTERS, STREAM, node_spec

TOTAL = 3_200
# One message of each 32 fails at each attempt, in the middle of most batches.
MODULUS, POISON = 32, 13
POISONED = [value for value in range(TOTAL) if value % MODULUS == POISON]
HEALTHY = [value for value in range(TOTAL) if value % MODULUS != POISON]
HANDLER = f"""
    def handler(ctx, data: list[int]) -> list[int]:
        if any(each % {MODULUS} == {POISON} for each in data):
            raise ValueError("poison")
        return data
"""
SLOW_ECHO = """
    import asyncio

    async def handler(ctx, data: list[int]) -> list[int]:
        await asyncio.sleep(0.02)
        return data
"""


def spec(attempts: int = 1, most: int = 32, wait_s: float = 0.01, **changes: Any) -> NodeSpec:
    return node_spec(
        batching=BatchingSpec(max_messages=most, wait_s=wait_s),
        retry=RetryPolicy(attempts=attempts, first_s=0.05, factor=1.0, max_s=0.05, jitter=0.0),
        error_subject=f"{STREAM}.errors",
        **changes,
    )


async def letters(bench: Workbench) -> list[DeadLetter]:
    state = await bench.bus.stream_state(DEAD_LETTERS)
    stored = [
        await bench.bus.get_message(DEAD_LETTERS, sequence)
        for sequence in range(state.first_sequence, state.last_sequence + 1)
    ]
    return [DeadLetter.from_header(message.headers[HEADER]) for message in stored]


async def taken(bench: Workbench, messages: int) -> None:
    """Wait until the node has so many messages in hand."""
    async with asyncio.timeout(10):
        while True:
            states = await bench.bus.consumer_states(STREAM)
            if sum(state.ack_pending for state in states if state.name in bench.durables) == messages:
                return


@pytest.mark.timeout(60)
async def test_one_poison_message_of_32_fails_alone_at_its_only_attempt(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(HANDLER, ack_wait_s=5.0)
    await bench.feed(range(TOTAL))

    await bench.start_child(spec())

    assert sorted(await bench.see(len(HEALTHY))) == HEALTHY
    await bench.settled()
    assert await bench.stored() == len(HEALTHY)
    given_up = await letters(bench)
    assert sorted(letter.sequence for letter in given_up) == [value + 1 for value in POISONED]
    assert {letter.error for letter in given_up} == {"ValueError: poison"}


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_replicas_killed_with_batches_in_hand_lose_and_repeat_nothing(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(SLOW_ECHO, ack_wait_s=1.0)
    await bench.feed(range(TOTAL))
    replicas = [await bench.start_child(spec()) for _ in range(2)]

    for seen in (200, 900, 1_700):
        await bench.see(seen)
        replicas.pop(0).kill()
        replicas.append(await bench.start_child(spec()))

    assert sorted(await bench.see(TOTAL)) == list(range(TOTAL))
    await bench.settled()
    assert (await bench.stored(), await bench.dead_letters()) == (TOTAL, 0)


@pytest.mark.attack
@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", BATCHING_POINTS)
async def test_a_kill_at_any_point_of_a_batch_loses_and_repeats_nothing(
    open_workbench: OpenWorkbench, point: str
) -> None:
    bench = await open_workbench(HANDLER, ack_wait_s=1.0)
    await bench.bus.key_value(f"attempts_{STREAM}", create=True)
    values = range(320)
    await bench.feed(values)
    victim = bench.launch_child(spec(attempts=2), module=("test.support.kill_at", point, "3"))
    assert await victim.exit_code() == -9, victim.log()

    await bench.start_child(spec(attempts=2))

    healthy = [value for value in values if value % MODULUS != POISON]
    assert sorted(await bench.see(len(healthy))) == healthy
    await bench.settled()
    assert await bench.stored() == len(healthy)
    assert sorted(letter.sequence for letter in await letters(bench)) == [
        value + 1 for value in values if value % MODULUS == POISON
    ]


@pytest.mark.attack
@pytest.mark.timeout(60)
async def test_a_message_that_kills_its_process_is_alone_at_its_fourth_delivery(
    open_workbench: OpenWorkbench, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    bench = await open_workbench(
        f"""
        import os
        from pathlib import Path

        async def handler(ctx, data: list[int]) -> list[int]:
            if 5 in data:
                with Path({str(calls)!r}).open("a") as file:
                    print(*data, file=file)
                os._exit(9)
            return data
        """,
        ack_wait_s=0.5,
    )
    await bench.feed(range(8))

    for _ in range(4):
        child = bench.launch_child(spec(most=8, wait_s=1.0))
        assert await child.exit_code() == 9, child.log()

    sizes = [len(call.split()) for call in calls.read_text().splitlines()]
    assert sizes == [8, 4, 2, 1]
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(30)
async def test_a_stop_lets_go_what_has_been_gathered(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(SLOW_ECHO, ack_wait_s=30.0)
    await bench.feed(range(5))
    child = await bench.start_child(spec(wait_s=3600.0))
    await taken(bench, 5)

    child.terminate()

    assert await child.exit_code() == 0, child.log()
    assert sorted(await bench.see(5)) == list(range(5))
    await bench.settled()
