"""A fused chain on a real nats-server: killed at any point, redriven in its middle, stopped, traced, told of."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime import wire
from runtime.bus.base import Confirmation
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.presence import PresenceSet
from runtime.cli.status_look import compare, look
from runtime.cli.target import Target
from runtime.clock import SystemClock
from runtime.inspection.letters import Wanted, find
from runtime.inspection.redrive import Redriver
from runtime.inspection.trace import Fate, Step, trace
from runtime.message import Message, MessageType
from runtime.spec import names
from test.support.chain import RETRY, write_flow
from test.support.fused_nodes import FusedNodes, open_nodes

FLOW = f"""
nodes:
  - {{name: a}}
  - {{name: b, {RETRY}}}
  - {{name: c}}
fuse: [a, b, c]
"""
TWICE = "async def handler(ctx, data: int):\n    return [data, -data]\n"
# Fails until the file `mended` is there, but for what is not negative.
FRAGILE = """
    from pathlib import Path

    async def handler(ctx, data: int):
        if data < 0 and not Path(ctx.path("mended")).exists():
            raise ValueError("not mended")
        return data
    """
SLOW = """
    import asyncio

    async def handler(ctx, data: int):
        await asyncio.sleep(0.004)
        return data
    """


@pytest.fixture
async def nodes(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[FusedNodes]:
    folder = write_flow(tmp_path / "flow", FLOW, {"a": TWICE, "b": FRAGILE, "c": SLOW})
    async with open_nodes(nats_server.url, folder) as opened:
        yield opened


@pytest.mark.attack
@pytest.mark.timeout(120)
async def test_replicas_killed_in_the_middle_lose_and_repeat_nothing(
    nats_server: EmbeddedServer, tmp_path: Path
) -> None:
    folder = write_flow(tmp_path / "flow", FLOW, {"a": TWICE, "b": SLOW, "c": SLOW})
    async with open_nodes(nats_server.url, folder) as nodes:
        total = 1_500
        replicas = [await nodes.start("a") for _ in range(2)]
        await nodes.feed(range(1, total + 1))

        for seen in sorted(random.sample(range(50, 2 * total - 400), 4)):
            await nodes.seen("c", seen)
            victim = replicas.pop(random.randrange(2))
            victim.kill()
            replicas.append(await nodes.start("a"))
        await nodes.settled()

        assert sorted(await nodes.outputs("c")) == sorted([*range(1, total + 1), *range(-total, 0)])
        assert (await nodes.count("a"), await nodes.count("b")) == (0, 0)


@pytest.mark.timeout(60)
async def test_a_chain_that_is_told_to_stop_gives_back_what_it_has_not_finished(nodes: FusedNodes) -> None:
    child = await nodes.start("a")
    await nodes.feed(range(1, 301))
    await nodes.seen("c", 20)

    child.terminate()

    assert await child.exit_code() == 0
    assert await nodes.count("c") < 600
    await nodes.start("a")
    await nodes.settled()
    assert sorted(await nodes.outputs("c")) == list(range(1, 301))
    given_up = [letter.letter.path async for letter in find(nodes.bus, nodes.stream, Wanted(node="b"))]
    assert given_up == ["-1"] * 300


@pytest.mark.timeout(60)
async def test_a_dead_letter_of_the_middle_is_redriven_into_the_middle(nodes: FusedNodes, tmp_path: Path) -> None:
    await nodes.start("a")
    await nodes.feed([7, 8])
    await nodes.settled()
    letters = [letter async for letter in find(nodes.bus, nodes.stream, Wanted())]
    assert sorted(letter.letter.node for letter in letters) == ["b", "b"]
    (tmp_path / "flow" / "mended").touch()

    async with Redriver(nodes.bus, nodes.stream) as redriver:
        ways = [await redriver.redrive(letter) for letter in letters]
    await nodes.settled()

    assert {way.subject for way in ways} == {names.redrive_subject("b", f"{nodes.stream}.a")}
    assert sorted(await nodes.outputs("c")) == [-8, -7, 7, 8]
    assert [letter async for letter in find(nodes.bus, nodes.stream, Wanted())] == []


@pytest.mark.timeout(60)
async def test_a_trace_shows_every_node_of_the_chain_and_how_long_it_ran(nodes: FusedNodes, tmp_path: Path) -> None:
    await nodes.start("a")
    await nodes.feed([7])
    await nodes.settled()

    seen = await trace(nodes.bus, nodes.stream, "r0")

    [first] = seen.steps[1]
    passed, given_up = sorted(first.inner, key=lambda step: step.fate)[::-1]
    assert (first.node, first.fate, passed.node, passed.fate) == ("a", Fate.DONE, "b", Fate.DONE)
    [last] = passed.inner
    assert (last.node, [output.value for output in last.outputs]) == ("c", [7])
    assert (given_up.node, given_up.fate, given_up.letter is not None) == ("b", Fate.DEAD, True)
    assert last.run_s is not None and last.run_s > 0.003  # timers may be early by a millisecond
    assert None not in (first.run_s, passed.run_s)

    (tmp_path / "flow" / "mended").touch()
    async with Redriver(nodes.bus, nodes.stream) as redriver:
        await redriver.redrive(seen.letters[0])
    await nodes.settled()
    again = await trace(nodes.bus, nodes.stream, "r0")

    [redriven] = [step for step in again.steps[1][0].inner if step.redriven]
    assert redriven.redriven is not None
    [entered] = again.steps[redriven.redriven.sequence]
    assert _outline(entered) == ("b", [("c", [-7])])
    assert [message.sequence for message in again.roots] == [1]


@pytest.mark.timeout(60)
async def test_a_trace_shows_an_error_that_a_chain_has_passed_on(nodes: FusedNodes) -> None:
    failed = Message(request_id="r0", type=MessageType.ERROR, error="no luck", from_node="before")
    stored = Confirmation()
    publisher = nodes.bus.publisher(nodes.stream)
    await publisher.publish(
        names.entrypoint_subject(nodes.stream), wire.encode(failed), message_id="in.0", confirm=stored
    )
    await stored
    await publisher.close()
    await nodes.start("a")
    await nodes.settled()

    seen = await trace(nodes.bus, nodes.stream, "r0")

    [first] = seen.steps[1]
    [second] = first.inner
    [last] = second.inner
    assert [step.node for step in (first, second, last)] == ["a", "b", "c"]
    assert {step.fate for step in (first, second, last)} == {Fate.DONE}
    assert [output.type for output in last.outputs] == ["ERROR"]


@pytest.mark.timeout(60)
async def test_the_status_shows_every_node_of_the_chain(nodes: FusedNodes) -> None:
    await nodes.start("a")
    await nodes.feed([7])
    await nodes.settled()
    present = await PresenceSet.open(nodes.bus, names.PRESENCE_BUCKET, names.presence_keys(nodes.stream), SystemClock())
    target = Target(name="chain", nats=nodes.url, stream=nodes.stream)

    seen = compare(await look(nodes.bus, target, present.records.values(), at_s=1.0))
    await present.close()

    told = {node.node: (len(node.live), node.fused_with, node.dead_letters) for node in seen.nodes}
    assert told == {"a": (1, "", 0), "b": (1, "a", 1), "c": (1, "a", 0)}


def _outline(step: Step) -> tuple[str, list[tuple[str, list[object]]]]:
    return step.node, [(inner.node, [output.value for output in inner.outputs]) for inner in step.inner]
