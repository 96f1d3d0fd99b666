"""NATS goes away under load and comes back: the node resumes by itself, and the counts agree."""

import asyncio
import os
import signal

import pytest

from runtime.bus import pull
from runtime.bus.embedded import EmbeddedServer
from test.integration.conftest import OpenWorkbench
from test.support.actions import actions
from test.support.node import node_spec

ECHO = """
    import asyncio

    async def handler(ctx, data: int):
        await asyncio.sleep(0.002)
        return data
"""


@pytest.mark.timeout(60)
async def test_a_node_resumes_after_nats_was_restarted(
    open_workbench: OpenWorkbench, nats_server: EmbeddedServer
) -> None:
    bench = await open_workbench(ECHO, ack_wait_s=3.0)
    total = 3_000
    await bench.start_here(node_spec(), JS_REQUEST_TIMEOUT="1")
    feeding = asyncio.create_task(bench.feed(range(total)))

    for seen in (200, 1_000, 1_800):
        await bench.see(seen)
        await nats_server.stop()
        await nats_server.start()

    await feeding
    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(60)
async def test_a_node_resumes_after_nats_was_killed(open_workbench: OpenWorkbench, nats_server: EmbeddedServer) -> None:
    bench = await open_workbench(ECHO, ack_wait_s=3.0)
    total = 2_000
    await bench.start_here(node_spec(), JS_REQUEST_TIMEOUT="1")
    await bench.feed(range(total))

    await bench.see(300)
    nats_server.kill()
    await nats_server.start()

    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total


@pytest.mark.timeout(60)
async def test_a_node_notices_a_frozen_nats_and_resumes(
    open_workbench: OpenWorkbench, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(pull, "SILENCE_S", 0.6)
    monkeypatch.setattr(pull, "WATCH_S", 0.1)
    bench = await open_workbench(ECHO, ack_wait_s=2.0)
    total = 1_000
    await bench.start_here(node_spec(), JS_REQUEST_TIMEOUT="0.5")
    await bench.feed(range(500))
    await bench.see(100)

    with actions() as logged:
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            await logged.wait_for("silent")
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)

    await bench.feed(range(500, total))
    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(60)
async def test_a_node_resumes_when_its_consumer_was_deleted_and_made_again(open_workbench: OpenWorkbench) -> None:
    """The new consumer delivers everything again; the outputs have the ids that they had."""
    bench = await open_workbench(ECHO, ack_wait_s=3.0)
    total = 600
    await bench.start_here(node_spec())
    await bench.feed(range(total // 2))
    await bench.see(50)

    with actions() as logged:
        await bench.delete_consumer()
        await logged.wait_for("gone")
        await bench.bus.ensure_consumer(bench.consumer)
        await logged.wait_for("bound")

    await bench.feed(range(total // 2, total))
    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total


@pytest.mark.timeout(60)
async def test_a_node_waits_for_a_full_stream_and_goes_on_when_there_is_room(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(
        """
        async def handler(ctx, data: int):
            return f"{data}".ljust(2_000)
        """,
        max_bytes=200_000,
    )
    total = 200
    await bench.feed(range(total))

    with actions() as logged:
        await bench.start_here(node_spec())
        await logged.wait_for("hold")
        for seen in range(1, total + 1):
            await bench.see(seen)
            await bench.forget_seen()
        await logged.wait_for("resume")

    assert sorted(int(value) for value in bench.seen) == list(range(total))
    await bench.settled()
    assert await bench.dead_letters() == 0
