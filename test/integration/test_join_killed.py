"""A join dies at any point: every set is handled once, and one that stays incomplete is given up in its time."""

import random
import signal

import pytest

from runtime.spec import names
from runtime.spec.node import JoinSpec, NodeSpec
from test.integration.conftest import OpenWorkbench
from test.support.children import NodeChild, Workbench
from test.support.kill_at import JOIN_POINTS, NODE_POINTS
from test.support.node import ENTRYPOINT, NODE, STREAM, node_spec

pytestmark = pytest.mark.attack

OTHER = names.node_subject(STREAM, "other")

BOTH = """
    async def handler(ctx, data: dict):
        return [[data["left"], data["right"]]]
"""


def join_spec(timeout_s: float = 60.0) -> NodeSpec:
    parts = {ENTRYPOINT: "left", OTHER: "right"}
    join = JoinSpec(
        bucket=names.join_bucket(STREAM, NODE), parts=parts, key="request_id", timeout_s=timeout_s, partial=False
    )
    return node_spec(join=join, concurrency=4)


async def start(bench: Workbench, spec: NodeSpec) -> NodeChild:
    return await bench.start_child(spec, NATS_INPUTS=f"{ENTRYPOINT},{OTHER}")


@pytest.mark.timeout(40)
@pytest.mark.parametrize("point", [*JOIN_POINTS, *NODE_POINTS])
async def test_a_kill_at_any_point_handles_every_set_once(open_workbench: OpenWorkbench, point: str) -> None:
    bench = await open_workbench(BOTH, ack_wait_s=1.0, spec=join_spec())
    victim = bench.launch_child(
        join_spec(), module=("test.support.kill_at", point, "5"), NATS_INPUTS=f"{ENTRYPOINT},{OTHER}"
    )
    await victim.ready()
    await bench.feed(range(10))
    await bench.feed(range(10), subject=OTHER)
    assert await victim.exit_code() == -signal.SIGKILL

    await start(bench, join_spec())

    assert sorted(await bench.see(10)) == [[number, number] for number in range(10)]
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(60)
async def test_replicas_killed_under_load_join_every_set_once(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(BOTH, ack_wait_s=1.0, spec=join_spec())
    total = 500
    replicas = [await start(bench, join_spec()) for _ in range(2)]
    await bench.feed(range(total))
    await bench.feed(range(total), subject=OTHER)

    for seen in sorted(random.sample(range(10, total - 100), 3)):
        await bench.see(seen)
        victim = random.choice(replicas)
        victim.kill()
        replicas.remove(victim)
        replicas.append(await start(bench, join_spec()))

    assert sorted(await bench.see(total)) == [[number, number] for number in range(total)]
    assert await bench.stored() == total
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(40)
async def test_the_time_of_a_set_goes_on_while_nobody_runs(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(BOTH, ack_wait_s=1.0, spec=join_spec(timeout_s=3.0))
    first = await start(bench, join_spec(timeout_s=3.0))
    await bench.feed([7])
    await _until_kept(bench)
    first.kill()

    await start(bench, join_spec(timeout_s=3.0))
    await bench.see(1)
    await bench.settled()

    assert await bench.dead_letters() == 1
    assert bench.seen == [None]  # the ERROR that tells the caller


async def _until_kept(bench: Workbench) -> None:
    bucket = await bench.bus.key_value(names.join_bucket(STREAM, NODE))
    while not await bucket.keys():
        pass
