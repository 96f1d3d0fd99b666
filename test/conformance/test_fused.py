"""A chain gives the same answers, outputs, documents and dead letters with a process for each node and fused in one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from test.support.chain import RETRY, Answers, Chain, open_chain, write_flow

NODES = f"""
nodes:
  - {{name: a, {RETRY}}}
  - {{name: b, {RETRY}}}
  - {{name: c, {RETRY}}}
"""
PASS = "async def handler(ctx, data):\n    return data\n"
SPLIT = "async def handler(ctx, data: list):\n    return [{'n': n} for n in data]\n"
DOUBLE = "def handler(ctx, data: dict):\n    return {'n': 2 * data['n']}\n"
LIST = "async def handler(ctx, data: dict):\n    return data['n']\n"

pytestmark = pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])


@pytest.fixture
def flow(tmp_path: Path) -> Callable[..., Path]:
    """Write a chain of three with these handlers; `workflow` stands for its nodes."""

    def write(a: str, b: str = PASS, c: str = PASS, *, workflow: str = NODES, **others: str) -> Path:
        handlers = {"a": a, "b": b, "c": c, **others}
        return write_flow(tmp_path / "flow", f"{workflow}fuse: [a, b, c]\n", handlers)

    return write


async def test_every_output_goes_through_the_chain_and_comes_out_once(flow: Callable[..., Path], fused: bool) -> None:
    several = "async def handler(ctx, data: dict):\n    for n in (data['n'], -data['n']):\n        yield n\n"
    async with open_chain(flow(SPLIT, DOUBLE, several), fused=fused) as chain:
        answers = await chain.send([1, 2, 3])

        assert answers.end == "ok"
        assert chain.outputs("c") == [-2, -4, -6, 2, 4, 6]
        assert chain.letters() == []
        assert (len(chain.stored()), _counts(chain, "b")) == (7 if fused else 13, {"taken": 3, "ok": 3})


async def test_a_node_that_returns_nothing_ends_its_message_alone(flow: Callable[..., Path], fused: bool) -> None:
    odd = "async def handler(ctx, data: dict):\n    return data if data['n'] % 2 else None\n"
    async with open_chain(flow(SPLIT, odd, LIST), fused=fused) as chain:
        await chain.send([1, 2, 3])

        assert chain.outputs("c") == [1, 3]
        assert (_counts(chain, "b"), _counts(chain, "c")) == ({"taken": 3, "ok": 3}, {"taken": 2, "ok": 2})


async def test_a_node_leaves_out_what_does_not_fit(flow: Callable[..., Path], fused: bool) -> None:
    marks = """
        async def handler(ctx, data: list):
            for n in data:
                ctx.set_header("odd", "yes" if n % 2 else "no")
                await ctx.send_output({"n": n})
        """
    nodes = NODES.replace("name: b", "name: b, from: {node: a, when: {header: {odd: [yes, maybe]}}}")
    async with open_chain(flow(marks, DOUBLE, LIST, workflow=nodes), fused=fused) as chain:
        await chain.send([1, 2, 3])

        assert chain.outputs("c") == [2, 6]
        assert _counts(chain, "b") == {"taken": 3, "ok": 3}
        assert chain.node("b").metrics.totals()["left_out"] == 1


async def test_a_node_leaves_out_what_has_not_its_fields(flow: Callable[..., Path], fused: bool) -> None:
    nodes = NODES.replace("name: b", "name: b, from: {node: a, when: {field: {n: [1, 3, true], meta.odd: true}}}")
    marks = "async def handler(ctx, data: list):\n    return [{'n': n, 'meta': {'odd': n % 2 == 1}} for n in data]\n"
    async with open_chain(flow(marks, DOUBLE, LIST, workflow=nodes), fused=fused) as chain:
        await chain.send([1, 2, 3, 5])

        assert chain.outputs("c") == [2, 6]
        assert _counts(chain, "b") == {"taken": 4, "ok": 4}
        assert chain.node("b").metrics.totals()["left_out"] == 2
        assert chain.letters() == []


async def test_a_message_that_fails_is_tried_again_alone_and_given_up_alone(
    flow: Callable[..., Path], fused: bool
) -> None:
    b = """
        async def handler(ctx, data: dict):
            await ctx.db.save("calls", {"n": data["n"], "attempt": ctx.attempt}, key=str(ctx.attempt))
            if data["n"] == 2 or (data["n"] == 3 and ctx.attempt < 3):
                raise ValueError(f"no {data['n']}")
            return data
        """
    async with open_chain(flow(SPLIT, b, LIST), fused=fused) as chain:
        await chain.send([1, 2, 3])

        assert chain.outputs("c") == [1, 3]
        calls = [(call["n"], call["attempt"]) for call in chain.documents("calls")]
        assert calls == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
        [(letter, value)] = chain.letters()
        assert (letter.node, letter.reason, letter.error, value) == ("b", "failed", "ValueError: no 2", {"n": 2})
        assert [attempt.error for attempt in letter.attempts] == ["ValueError: no 2"] * 3
        assert (letter.subject, letter.request_id) == (f"{chain.stream}.a", chain.messages("c")[0].request_id)
        assert _counts(chain, "b") == {"taken": 7, "ok": 2, "retried": 4, "dead": 1}
        assert _counts(chain, "a") == {"taken": 1, "ok": 1}


@pytest.mark.parametrize("failing", ["a", "b", "c"])
async def test_the_caller_hears_of_the_node_that_has_failed(
    flow: Callable[..., Path], fused: bool, failing: str
) -> None:
    fails = "async def handler(ctx, data):\n    raise KeyError('gone')\n"
    handlers = {"a": PASS, "b": PASS, "c": PASS} | {failing: fails}
    async with open_chain(flow(**handlers), fused=fused) as chain:
        answers = await chain.send({"n": 1})

        source = {"a": "entrypoint", "b": "a", "c": "b"}[failing]
        text = f"Error in node '{failing}' executing handler for node '{source}': KeyError: 'gone'"
        assert answers == Answers([], f"failed at {failing}: {text}")
        assert [(letter.node, value) for letter, value in chain.letters()] == [(failing, {"n": 1})]


async def test_an_error_is_handed_to_the_node_that_asks_for_errors(flow: Callable[..., Path], fused: bool) -> None:
    fails = "from runtime.errors import Reject\n\nasync def handler(ctx, data):\n    raise Reject('not today')\n"
    asks = """
        handle_errors = True

        async def handler(ctx, data):
            return {"told": ctx.error, "by": ctx.from_node}
        """
    async with open_chain(flow(fails, PASS, asks), fused=fused) as chain:
        answers = await chain.send(1)

        told = "Error in node 'a' executing handler for node 'entrypoint': not today"
        assert chain.outputs("c") == [{"told": told, "by": "a"}]
        assert [value for value in answers.values if value] == [{"told": told, "by": "a"}]


async def test_a_payload_that_the_next_handler_does_not_take_is_its_dead_letter(
    flow: Callable[..., Path], fused: bool
) -> None:
    b = """
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int
            y: int

        async def handler(ctx, point: Point):
            return point.x + point.y
        """
    a = "async def handler(ctx, data: list):\n    return [{'x': 1, 'y': 2}, {'x': 1}]\n"
    async with open_chain(flow(a, b), fused=fused) as chain:
        await chain.send([])

        assert chain.outputs("c") == [3]
        assert [(letter.node, letter.reason, value) for letter, value in chain.letters()] == [
            ("b", "payload", {"x": 1})
        ]


async def test_what_a_handler_does_to_its_data_stays_with_it(flow: Callable[..., Path], fused: bool) -> None:
    a = "KEPT = {'tags': ('x', 'y')}\n\nasync def handler(ctx, data):\n    return [KEPT, KEPT]\n"
    b = "async def handler(ctx, data: dict):\n    data['tags'].append('b')\n    return data\n"
    async with open_chain(flow(a, b), fused=fused) as chain:
        await chain.send(None)

        assert chain.outputs("c") == [{"tags": ["x", "y", "b"]}] * 2


async def test_a_handler_has_the_time_of_its_own_node(flow: Callable[..., Path], fused: bool) -> None:
    workflow = """
nodes:
  - {name: a, timeout: 10s}
  - {name: b, timeout: 500ms, retry: {attempts: 1}}
  - {name: c, timeout: 10s}
"""
    waits = """
        import asyncio

        async def handler(ctx, data: int):
            if data:
                await asyncio.sleep(0.7)
            return data
        """
    b = """
        import asyncio

        async def handler(ctx, data: int):
            await asyncio.sleep(30 if data else 0)
            return data
        """
    async with open_chain(flow(waits, b, workflow=workflow), fused=fused) as chain:
        answers = await chain.send(1)

        assert answers.end.startswith("timeout at b: ")
        assert "the handler took longer than 0.5 s" in answers.end
        assert [(letter.node, letter.reason) for letter, _ in chain.letters()] == [("b", "timeout")]
        assert await chain.send(0) == Answers([0], "ok")


async def test_channels_and_outputs_with_other_readers_are_in_the_stream(
    flow: Callable[..., Path], fused: bool
) -> None:
    workflow = """
nodes:
  - {name: a}
  - {name: b}
  - {name: c}
  - {name: audit, from: [a, b.seen]}
output: c
"""
    b = "async def handler(ctx, data: int):\n    await ctx.send_output(data, 'seen')\n    return -data\n"
    async with open_chain(flow(PASS, b, workflow=workflow, audit=PASS), fused=fused) as chain:
        answers = await chain.send(5)

        assert answers == Answers([-5], "ok")
        assert (chain.outputs("a"), chain.outputs("b", "seen"), chain.outputs("audit")) == ([5], [5], [5, 5])


async def test_a_node_in_the_middle_may_answer_the_callers(flow: Callable[..., Path], fused: bool) -> None:
    workflow = """
nodes:
  - {name: a}
  - {name: b}
  - {name: c}
output: b
"""
    b = "async def handler(ctx, data: int):\n    return data + 1\n"
    async with open_chain(flow(PASS, b, workflow=workflow), fused=fused) as chain:
        answers = await chain.send(1)

        assert answers == Answers([2], "ok")
        assert (chain.outputs("b"), chain.outputs("c")) == ([2], [2])


async def test_an_early_reply_reaches_the_caller_and_then_the_answer_does(
    flow: Callable[..., Path], fused: bool
) -> None:
    a = """
        async def handler(ctx, data: int):
            await ctx.early_reply({"first": data})
            await ctx.db.save("told", {"n": data})
            return data
        """
    async with open_chain(flow(a), fused=fused) as chain:
        answers = await chain.send(1)

        assert answers == Answers([{"first": 1}, 1], "ok")
        assert chain.documents("told") == [{"n": 1}]


async def test_plain_handlers_and_generators_are_fused_as_well(flow: Callable[..., Path], fused: bool) -> None:
    a = "def handler(ctx, data: int):\n    for n in range(data):\n        yield n\n"
    c = "async def handler(ctx, data: dict):\n    await ctx.send_output(data['n'] + 1)\n"
    b = "def handler(ctx, data: int):\n    return {'n': data}\n"
    async with open_chain(flow(a, b, c), fused=fused) as chain:
        await chain.send(4)

        assert chain.outputs("c") == [1, 2, 3, 4]


async def test_the_plain_output_has_a_name_as_well(flow: Callable[..., Path], fused: bool) -> None:
    b = "async def handler(ctx, data: int):\n    await ctx.send_output(data + 1, 'main')\n"
    async with open_chain(flow(PASS, b), fused=fused) as chain:
        await chain.send(4)

        assert chain.outputs("c") == [5]


async def test_a_payload_larger_than_a_message_goes_through_and_into_a_dead_letter(
    flow: Callable[..., Path], fused: bool
) -> None:
    a = "import random\n\nasync def handler(ctx, data: int):\n    return bytes([data]) + random.randbytes(3_000_000)\n"
    b = """
        async def handler(ctx, data: bytes):
            if data[0] % 2:
                raise ValueError(len(data))
            return data
        """
    c = "async def handler(ctx, data: bytes):\n    return len(data)\n"
    async with open_chain(flow(a, b, c), fused=fused) as chain:
        ends = [(await chain.send(number)).end.partition(":")[0] for number in (0, 1)]

        assert ends == ["ok", "failed at b"]
        assert chain.outputs("c") == [3_000_001]
        assert [(letter.error, letter.left_out) for letter, _ in chain.letters()] == [("ValueError: 3000001", False)]


async def test_init_and_configuration_are_those_of_each_node(flow: Callable[..., Path], fused: bool) -> None:
    workflow = """
config: {level: of-all}
nodes:
  - {name: a, config: {level: high}}
  - {name: b, config: {level: low}}
  - {name: c}
"""
    handler = """
        import os

        async def init(ctx):
            ctx.set("level", await ctx.configuration.get("level"))

        async def handler(ctx, data: list):
            return [[*data, ctx.get("level")]]
        """
    async with open_chain(flow(handler, handler, handler, workflow=workflow), fused=fused) as chain:
        await chain.send([])

        assert chain.outputs("c") == [["high", "low", "of-all"]]


async def test_handlers_of_one_chain_have_modules_of_one_name(flow: Callable[..., Path], fused: bool) -> None:
    uses = "import model\n\nasync def handler(ctx, data: list):\n    return [[*data, model.NAME]]\n"
    folder = flow(uses, uses, uses)
    for node in ("a", "b", "c"):
        (folder / node / "model.py").write_text(f"NAME = 'of {node}'\n")

    async with open_chain(folder, fused=fused) as chain:
        await chain.send([])

        assert chain.outputs("c") == [["of a", "of b", "of c"]]


def _counts(chain: Chain, node: str) -> dict[str, int]:
    totals = chain.node(node).metrics.totals()
    return {name: totals[name] for name in ("taken", "ok", "retried", "dead") if totals[name]}
