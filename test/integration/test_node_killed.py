"""A node dies at any point: what was fed comes out, each message once."""

import random
from pathlib import Path

import pytest

from test.integration.conftest import OpenWorkbench
from test.support.children import crashing_handler
from test.support.node import node_spec

pytestmark = pytest.mark.attack

SLOW_ECHO = """
    import asyncio

    async def handler(ctx, data: int):
        await asyncio.sleep(0.004)
        return data
"""


@pytest.mark.timeout(60)
async def test_replicas_killed_under_load_lose_and_repeat_nothing(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(SLOW_ECHO, ack_wait_s=2.0)
    total = 3_000
    replicas = [await bench.start_child(node_spec()) for _ in range(2)]
    await bench.feed(range(total))

    for seen in sorted(random.sample(range(50, total - 300), 4)):
        await bench.see(seen)
        victim = random.choice(replicas)
        victim.kill()
        replicas.remove(victim)
        replicas.append(await bench.start_child(node_spec()))

    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total
    assert await bench.dead_letters() == 0


CRASHES = {
    "in the handler": "crash()",
    "after the output was handed over": "await ctx.send_output(data)\n    crash()",
    "after the output was stored, before the ack": """await ctx.send_output(data)
    await ctx._services.outputs._publisher.flush()
    crash()""",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES.keys())
async def test_a_crash_between_take_and_ack_repeats_the_message_under_the_same_id(
    open_workbench: OpenWorkbench, tmp_path: Path, crash: str
) -> None:
    bench = await open_workbench(crashing_handler(crash, tmp_path / "crashed"), ack_wait_s=1.0)
    first = await bench.start_child(node_spec())
    await bench.feed([7])
    assert await first.exit_code() == 9

    await bench.start_child(node_spec())

    assert await bench.see(1) == [7]
    await bench.settled()
    assert await bench.stored() == 1
