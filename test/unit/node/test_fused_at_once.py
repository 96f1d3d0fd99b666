"""What a quick node of a chain gets, it handles in the slot of the node before: nobody can tell, but by the time."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Delivery
from runtime.clock import settle
from runtime.message import Message
from runtime.node.handed import Handed
from runtime.node.link import QUICK_S, Link
from runtime.payload import encode_value
from test.support.chain import Chain, open_chain, write_flow

PASS = "async def handler(ctx, data):\n    return data\n"
# Counts how many of its calls run, and waits until the test lets one after the other go.
WAITS = """
    import asyncio

    running = most = 0
    go = asyncio.Semaphore(0)
    began = asyncio.Semaphore(0)
    tasks = set()

    async def handler(ctx, data):
        global running, most
        running += 1
        most = max(most, running)
        tasks.add(asyncio.current_task().get_name())
        began.release()
        await go.acquire()
        running -= 1
        return data
    """
PATIENCE_S = 10.0


@pytest.fixture
def flow(tmp_path: Path) -> Callable[..., Path]:
    def write(b: str, nodes: str = "  - {name: a}\n  - {name: b}\n  - {name: c}\n", a: str = PASS) -> Path:
        return write_flow(tmp_path / "flow", f"nodes:\n{nodes}fuse: [a, b, c]\n", {"a": a, "b": b, "c": PASS})

    return write


async def test_a_message_is_handled_in_the_slot_of_the_node_before(flow: Callable[..., Path]) -> None:
    tells = """
        import asyncio

        async def handler(ctx, data):
            return asyncio.current_task().get_name()
        """
    async with open_chain(flow(tells), fused=True) as chain:
        answers = await chain.send(1)

        [task] = answers.values
        assert task.startswith("a slot ")
        assert [chain.node(node).metrics.totals()["ok"] for node in ("a", "b", "c")] == [1, 1, 1]


async def test_log_lines_bear_the_name_of_the_node_that_writes_them(flow: Callable[..., Path]) -> None:
    keeps = """
        from runtime.log import NODE

        seen = []

        async def handler(ctx, data):
            seen.append(NODE.get())
            return data
        """
    async with open_chain(flow(keeps, a=keeps), fused=True) as chain:
        await chain.send(1)
        await chain.send(1)

        assert [_module(chain, node).seen for node in ("a", "b")] == [["a", "a"], ["b", "b"]]


async def test_a_node_handles_no_more_at_once_than_it_says(flow: Callable[..., Path]) -> None:
    nodes = "  - {name: a, concurrency: 8}\n  - {name: b, concurrency: 2}\n  - {name: c}\n"
    async with open_chain(flow(WAITS, nodes), fused=True) as chain:
        b = _module(chain, "b")
        requests = [chain.caller.predict(number) for number in range(8)]

        for _ in range(8):
            await _within(b.began.acquire())
            b.go.release()
        await _within(asyncio.gather(*requests))

        assert b.most == 2


async def test_a_node_that_takes_its_time_has_slots_of_its_own(flow: Callable[..., Path]) -> None:
    async with open_chain(flow(WAITS), fused=True) as chain:
        b = _module(chain, "b")
        first = chain.caller.predict(1)
        await _within(b.began.acquire())
        await asyncio.sleep(QUICK_S * 40)  # the time that is measured, not a state that is waited for
        b.go.release()
        await _within(first)
        chain.node("b").metrics.flush()
        b.tasks.clear()

        b.go.release()
        await _within(chain.caller.predict(2))

        [task] = b.tasks
        assert task.startswith("b slot ")


async def test_who_waits_for_room_gets_the_place_that_is_given_back(flow: Callable[..., Path]) -> None:
    async with open_chain(flow(PASS), fused=True) as chain:
        link = chain.node("b")._reader
        assert isinstance(link, Link)
        await settle()
        places = list(iter(link.lend, None))
        told = asyncio.get_running_loop().create_future()
        message = Message(request_id="r", payload=encode_value(1), from_node="a")
        taken = Delivery("s", b"", None, 1, 1, 0, 0, "", 0.0)
        waits = asyncio.create_task(link.put(Handed(taken, "s.a", 1, "-0", "a 1", told.set_result, message)))
        await settle()
        assert (link.lend(), waits.done()) == (None, False)

        for place in places:
            link.give_back(place)

        assert await _within(told) is None
        await waits


async def test_a_stop_gives_back_what_waits_in_the_slot_of_another_node(flow: Callable[..., Path]) -> None:
    nodes = "  - {name: a}\n  - {name: b}\n  - {name: c}\n"
    async with open_chain(flow(WAITS, nodes), fused=True) as chain:
        request = chain.caller.predict(1)
        await _within(_module(chain, "b").began.acquire())

        await _within(chain.deployment.stop())

        [consumer] = chain._consumers()
        assert (consumer.pending + consumer.ack_pending, chain.letters()) == (1, [])
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


def _module(chain: Chain, node: str) -> Any:
    return chain.node(node)._handler.module


async def _within(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await awaitable
