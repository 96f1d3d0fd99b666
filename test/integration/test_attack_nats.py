"""NATS itself turns against a node: its disk fills, it delivers again and again what is in work, it stands still."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from test.support.children import Workbench
from test.support.node import node_spec

pytestmark = pytest.mark.attack

TOTAL = 100
LARGE = """
    async def handler(ctx, data: int):
        return f"{data:04}" + "x" * 2996
"""
ECHO = """
    async def handler(ctx, data):
        return data
"""
SLOW_ECHO = """
    import asyncio

    async def handler(ctx, data):
        await asyncio.sleep(0.3)
        return data
"""


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    start_nats_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    server = start_nats_server(jetstream={"max_file_store": 200_000})
    bench = await Workbench.open(server.url, tmp_path / "workflow", LARGE)
    try:
        await bench.feed(range(TOTAL))
        child = await bench.start_child(node_spec())
        # The outputs need 300 kB, which are there only once those that were seen are removed.
        for seen in range(1, TOTAL + 1):
            await bench.see(seen)
            await bench.forget_seen()

        assert sorted(int(text[:4]) for text in bench.seen) == list(range(TOTAL))
        assert "takes nothing now" in child.log()
        await bench.settled()
    finally:
        await bench.close()


async def test_a_storm_of_redeliveries_gives_each_output_once(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    # The server gives up every delivery before its handler can be through, and a stopped replica cannot object.
    bench = await Workbench.open(nats_server.url, tmp_path / "workflow", SLOW_ECHO, ack_wait_s=0.2)
    try:
        replicas = [await bench.start_child(node_spec()) for _ in range(2)]
        await bench.feed(range(300))
        for number in range(6):
            frozen = replicas[number % 2].process.pid
            os.kill(frozen, signal.SIGSTOP)
            await bench.see(30 * (number + 1))
            os.kill(frozen, signal.SIGCONT)

        assert sorted(await bench.see(300)) == list(range(300))
        await bench.settled()
        assert await bench.stored() == 300
        assert await bench.dead_letters() == 0
    finally:
        await bench.close()


@pytest.mark.parametrize("times", [3])
async def test_a_server_that_stands_still_again_and_again_loses_nothing(
    nats_server: EmbeddedServer, tmp_path: Path, times: int
) -> None:
    bench = await Workbench.open(nats_server.url, tmp_path / "workflow", ECHO)
    try:
        await bench.start_child(node_spec())
        for number in range(times):
            feeding = asyncio.create_task(bench.feed(range(number * 500, (number + 1) * 500)), name="feed")
            os.kill(nats_server.pid, signal.SIGSTOP)
            await asyncio.sleep(1.0)  # how long it stands still, not a state to wait for
            os.kill(nats_server.pid, signal.SIGCONT)
            await feeding

        assert sorted(await bench.see(times * 500)) == list(range(times * 500))
        await bench.settled()
        assert await bench.stored() == times * 500
    finally:
        await bench.close()
