"""A node with a state dies, freezes or fails at any point: every message counts once, in the order of its id."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from runtime.spec import names
from test.integration.conftest import OpenWorkbench
from test.support.counter import COUNTER, IDS, by_id, counts, expected, id_of, messages, stateful
from test.support.kill_at import NODE_POINTS, STATE_POINTS
from test.support.node import node_spec

pytestmark = pytest.mark.attack


@pytest.mark.timeout(40)
@pytest.mark.parametrize("point", [*STATE_POINTS, *NODE_POINTS])
async def test_a_kill_at_any_point_counts_each_message_once(open_workbench: OpenWorkbench, point: str) -> None:
    bench = await open_workbench(COUNTER, ack_wait_s=1.0, spec=stateful())
    victim = bench.launch_child(stateful(), module=("test.support.kill_at", point, "7"))
    await victim.ready()
    await bench.feed(messages(6), id_of)
    assert await victim.exit_code() == -signal.SIGKILL

    await bench.start_child(stateful())

    assert by_id(await bench.see(6 * len(IDS))) == expected(6)
    await bench.settled()
    assert await bench.stored() == 6 * len(IDS)
    assert await counts(bench) == dict.fromkeys(IDS, 6)


@pytest.mark.timeout(90)
async def test_replicas_killed_under_load_keep_the_order_of_every_id(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(COUNTER, ack_wait_s=1.0, spec=stateful())
    per_id = 120
    replicas = [await bench.start_child(stateful()) for _ in range(2)]
    await bench.feed(messages(per_id), id_of)

    for seen in sorted(random.sample(range(20, per_id * len(IDS) - 100), 4)):
        await bench.see(seen)
        victim = random.choice(replicas)
        victim.kill()
        replicas.remove(victim)
        replicas.append(await bench.start_child(stateful()))

    assert by_id(await bench.see(per_id * len(IDS))) == expected(per_id)
    await bench.settled()
    assert await bench.stored() == per_id * len(IDS)
    assert await counts(bench) == dict.fromkeys(IDS, per_id)


@pytest.mark.timeout(60)
async def test_a_frozen_replica_that_wakes_up_late_changes_nothing(
    open_workbench: OpenWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "called"
    os.mkfifo(called)
    bench = await open_workbench(
        f"""
        import asyncio, contextlib, os

        async def handler(ctx, data: list):
            ctx.state["count"] = ctx.state.get("count", 0) + 1
            if os.environ.get("SLOW"):
                with contextlib.suppress(OSError):  # nobody listens any more
                    os.close(os.open({str(called)!r}, os.O_WRONLY | os.O_NONBLOCK))
                await asyncio.sleep(0.3)
            return [[*data, ctx.state["count"]]]
        """,
        ack_wait_s=1.0,
        spec=stateful(),
    )
    monkeypatch.setenv("SLOW", "1")
    frozen = await bench.start_child(stateful())
    monkeypatch.delenv("SLOW")
    first_call = asyncio.create_task(asyncio.to_thread(called.read_bytes))
    await bench.feed(messages(1), id_of)
    await asyncio.wait_for(first_call, 10)
    frozen.process.send_signal(signal.SIGSTOP)

    await bench.start_child(stateful())
    await bench.see(len(IDS))
    await bench.feed([[state_id, 2] for state_id in IDS], id_of)
    await bench.see(2 * len(IDS))
    frozen.process.send_signal(signal.SIGCONT)
    await bench.feed([[state_id, 3] for state_id in IDS], id_of)

    assert by_id(await bench.see(3 * len(IDS))) == expected(3)
    frozen.terminate()
    assert await frozen.exit_code() == 0
    await bench.settled()
    assert await bench.stored() == 3 * len(IDS)
    assert await counts(bench) == dict.fromkeys(IDS, 3)


@pytest.mark.timeout(60)
async def test_a_poisoned_id_holds_up_its_own_partition_alone_and_not_for_ever(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(
        """
        async def handler(ctx, data: list):
            if data == ["ada", 2]:
                raise ValueError("poison")
            ctx.state["count"] = ctx.state.get("count", 0) + 1
            return [[*data, ctx.state["count"]]]
        """,
        spec=stateful(),
    )
    neighbours = [each for each in IDS if names.partition(each, 4) == names.partition("ada", 4)]
    retry = node_spec().retry.model_copy(update={"attempts": 3, "first_s": 1.0, "factor": 1.0})
    await bench.start_child(stateful(retry=retry))

    await bench.feed(messages(3), id_of)
    others = [each for each in IDS if each not in neighbours]
    # Of the neighbours only what came before the poison.
    first = list(await bench.see(3 * len(others) + len(neighbours)))

    assert {each: by_id(first)[each] for each in others} == {each: expected(3)[each] for each in others}
    assert await bench.dead_letters() == 0
    assert by_id(await bench.see(3 * len(IDS)))["ada"] == [(1, 1), (3, 2)]
    await bench.settled()
    assert await bench.dead_letters() == 1
