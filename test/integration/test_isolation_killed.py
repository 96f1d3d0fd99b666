"""Worker processes and their node die at any point: what was fed comes out, each message once, and nothing is left."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from runtime.bus.presence import EXPIRY_S
from runtime.spec import names
from runtime.spec.node import RetryPolicy
from test.integration.conftest import OpenWorkbench
from test.support.children import NodeChild, crashing_handler
from test.support.node import node_spec
from test.support.waiting import until_gone

pytestmark = pytest.mark.attack

RETRY = RetryPolicy(attempts=20, first_s=0.05, factor=1.0, jitter=0.0)

SLOW_ECHO = """
    import time

    def handler(ctx, data: int):
        time.sleep(0.002)
        return data
"""


def workers_of(child: NodeChild) -> list[int]:
    """Return the worker processes that a node has now."""
    children = Path(f"/proc/{child.process.pid}/task/{child.process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


@pytest.mark.timeout(90)
async def test_workers_killed_under_load_lose_and_repeat_nothing(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(SLOW_ECHO)
    child = await bench.start_child(node_spec(workers=3, retry=RETRY))
    total = 1_500
    await bench.feed(range(total))

    killed = 0
    for seen in sorted(random.sample(range(20, total - 100), 8)):
        await bench.see(seen)
        for pid in random.sample(workers_of(child), 1):
            os.kill(pid, signal.SIGKILL)
            killed += 1

    assert sorted(await bench.see(total)) == list(range(total))
    await bench.settled()
    assert await bench.stored() == total
    assert await bench.dead_letters() == 0
    assert killed == 8


CRASHES = {
    "in the handler": "crash()",
    "after an output": "await ctx.send_output(data)\n    crash()",
    "after an output is stored": "await ctx.send_early_reply(data)\n    crash()",
    "after a document": "await ctx.configuration.set('key', 'value')\n    crash()",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES.keys())
async def test_a_worker_that_crashes_repeats_its_message_under_the_same_id(
    open_workbench: OpenWorkbench, tmp_path: Path, crash: str
) -> None:
    bench = await open_workbench(crashing_handler(crash, tmp_path / "crashed"))
    await bench.bus.key_value("settings", create=True)
    await bench.start_child(node_spec(workers=1, retry=RETRY), NATS_KEY_VALUE_STORE_NODE="settings")

    await bench.feed([7, 8])

    assert sorted(await bench.see(2)) == [7, 8]
    await bench.settled()
    assert await bench.stored() == 2
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(60)
async def test_nothing_is_left_of_a_node_that_is_killed(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench("""
        import time

        def handler(ctx, data: int):
            time.sleep(3600)
    """)
    child = await bench.start_child(node_spec(workers=2))
    await bench.feed([1])
    workers = workers_of(child)

    child.kill()

    assert len(workers) == 2
    for pid in workers:
        await until_gone(pid)


@pytest.mark.timeout(60)
async def test_nothing_is_left_of_a_node_that_is_stopped(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench(SLOW_ECHO)
    child = await bench.start_child(node_spec(workers=2))
    workers = workers_of(child)
    await bench.feed(range(50))
    await bench.see(5)

    child.terminate()

    assert await child.exit_code() == 0
    for pid in workers:
        await until_gone(pid)
    await bench.start_child(node_spec(workers=1))
    assert sorted(await bench.see(50)) == list(range(50))
    await bench.settled()
    assert await bench.stored() == 50


@pytest.mark.timeout(60)
async def test_a_node_killed_while_its_workers_work_gives_their_messages_to_another(
    open_workbench: OpenWorkbench,
) -> None:
    bench = await open_workbench(SLOW_ECHO, ack_wait_s=1.0)
    replicas = [await bench.start_child(node_spec(workers=2)) for _ in range(2)]
    await bench.feed(range(600))

    await bench.see(100)
    replicas[0].kill()

    assert sorted(await bench.see(600)) == list(range(600))
    await bench.settled()
    assert await bench.stored() == 600


@pytest.mark.timeout(60)
async def test_a_worker_that_does_not_come_up_again_ends_its_node(
    open_workbench: OpenWorkbench, tmp_path: Path
) -> None:
    flag = tmp_path / "broken"
    bench = await open_workbench(f"""
        import os
        from pathlib import Path

        if Path({str(flag)!r}).exists():
            raise RuntimeError("the device is gone")

        def handler(ctx, data: int):
            Path({str(flag)!r}).touch()
            os._exit(1)
    """)
    child = await bench.start_child(node_spec(workers=1))

    await bench.feed([1])

    assert await child.exit_code() == 1
    assert "the device is gone" in child.log()


@pytest.mark.timeout(60)
async def test_presence_goes_on_while_all_workers_are_busy(open_workbench: OpenWorkbench) -> None:
    bench = await open_workbench("def handler(ctx, data: int):\n  while True: pass")
    presence = await bench.bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
    await bench.start_child(node_spec(workers=1, timeout_s=None))
    await bench.feed([1])

    async with asyncio.timeout(30):
        while not (keys := await presence.keys()):  # noqa: ASYNC110  # it is announced beside its start
            await asyncio.sleep(0.1)
        key = keys[0]
        first = (await presence.get(key)).revision
        while (await presence.get(key)).revision <= first + 1:  # noqa: ASYNC110  # what is watched is that it goes on
            await asyncio.sleep(0.1)


BROKEN = {
    "its import": ("import nothing_like_this", 2, "handler.py:2: ModuleNotFoundError: No module named"),
    "a crash of its import": ("import os; os._exit(5)", 1, "while it imported the handler, with exit code 5"),
    "its init": ("def init(ctx): raise RuntimeError('no model')\ndef handler(ctx, data): ...", 1, "no model"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("source", "exit_code", "text"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_node_that_cannot_start_its_workers_ends_as_one_without_them(
    open_workbench: OpenWorkbench, source: str, exit_code: int, text: str
) -> None:
    bench = await open_workbench(f"\n{source}")

    child = bench.launch_child(node_spec(workers=2))

    assert await child.exit_code() == exit_code
    assert text in child.log()
