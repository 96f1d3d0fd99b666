"""SIGTERM under load: the node drains, ends with 0, and gives back what it has at once."""

import asyncio
import time

import pytest

from test.integration.conftest import OpenWorkbench
from test.integration.test_node_killed import SLOW_ECHO
from test.support.node import node_spec


@pytest.mark.timeout(40)
async def test_a_stopped_replica_gives_back_what_it_has_and_another_goes_on(open_workbench: OpenWorkbench) -> None:
    """The ack wait is 30 s, so a message that is not given back would not come out in time."""
    bench = await open_workbench(SLOW_ECHO, ack_wait_s=30.0)
    total = 2_000
    first = await bench.start_child(node_spec())
    await bench.start_child(node_spec())
    feeding = asyncio.create_task(bench.feed(range(total)))

    await bench.see(300)
    first.terminate()
    assert await first.exit_code() == 0

    assert sorted(await bench.see(total, patience_s=15)) == list(range(total))
    await feeding
    await bench.settled()
    assert await bench.stored() == total


@pytest.mark.timeout(30)
async def test_a_handler_that_does_not_end_in_time_is_given_back(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(
        """
        import asyncio
        from pathlib import Path

        async def handler(ctx, data: int):
            if ctx.attempt == 1:
                Path(ctx.path("started")).touch()
                await ctx.send_early_reply("started")
                await asyncio.sleep(3600)
            return data

        def teardown(ctx):
            Path(ctx.path("torn-down")).touch()
        """,
        ack_wait_s=30.0,
    )
    first = await bench.start_child(node_spec(timeout_s=None), SHUTDOWN_GRACE="0.5")
    await bench.feed([1])
    await bench.see(1)

    first.terminate()
    stopping_s = time.monotonic()
    assert await first.exit_code() == 0
    assert time.monotonic() - stopping_s < 10
    await bench.start_child(node_spec())

    assert await bench.see(2, patience_s=10) == ["started", 1]
    assert (bench.folder / "torn-down").exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_node_that_is_stopped_while_it_starts_ends_at_once(open_workbench: OpenWorkbench, kind: str) -> None:
    """Loading a model may take minutes, and whoever starts processes kills what does not end in time."""
    bench = await open_workbench(
        f"""
        import asyncio, time
        from pathlib import Path

        {kind} init(ctx):
            Path(ctx.path("loading")).touch()
            {"await asyncio.sleep(3600)" if kind == "async def" else "time.sleep(3600)"}

        async def handler(ctx, data): ...
        """
    )
    child = bench.launch_child(node_spec())
    async with asyncio.timeout(20):
        while not (bench.folder / "loading").exists():  # noqa: ASYNC110 - the file is the event
            await asyncio.sleep(0.02)

    child.terminate()

    assert await child.exit_code() == 0


@pytest.mark.timeout(30)
async def test_a_handler_that_does_not_load_ends_the_node_with_its_place(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench("import nothing_like_that\n")

    child = bench.launch_child(node_spec())

    assert await child.exit_code() == 2
    assert "handler.py:1: ModuleNotFoundError: No module named 'nothing_like_that'" in child.log()
