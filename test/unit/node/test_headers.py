"""Headers of outputs: those of the input, and those that the handler gives to what it sends from then on."""

import json
from typing import Any

import pytest

from runtime.message import MessageType
from runtime.node.state import StateEntry
from runtime.node.work import HeldOutput
from runtime.spec import names
from runtime.spec.batching import BatchingSpec
from runtime.spec.node import NodeSpec, StateSpec
from test.support.node import NODE, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

SETS = """
    async def handler(ctx, data: dict):
        await ctx.send_output("first")
        ctx.set_header("kind", data["kind"])
        await ctx.send_output("second")
        ctx.set_header("kind", "last")
        return ["third", ctx.headers["kind"]]
"""
STATE = StateSpec(bucket=names.state_bucket(STREAM, NODE))


def headers_of(node: NodeUnderTest) -> list[dict[str, str]]:
    return [dict(message.headers) for message in node.messages()]


@pytest.mark.parametrize(
    "spec",
    [node_spec(), node_spec(atomic=True), node_spec(partitions=1, state=STATE)],
    ids=["plain", "atomic", "state"],
)
async def test_what_is_sent_from_then_on_has_the_header_beside_those_of_the_input(
    start_node: StartNode, spec: NodeSpec
) -> None:
    node = await start_node(SETS, spec=spec)

    await node.send({"kind": "scan"}, headers={"page": "7"})
    await node.settled()

    last = {"page": "7", "kind": "last"}
    assert headers_of(node) == [{"page": "7"}, {"page": "7", "kind": "scan"}, last, last]
    assert node.outputs() == ["first", "second", "third", "last"]


async def test_the_next_attempt_begins_with_the_headers_of_the_input(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data):
            if ctx.attempt == 1:
                ctx.set_header("kind", "scan")
                raise ValueError("no")
            return dict(ctx.headers)
        """
    )

    await node.send(1)
    await node.released()
    await node.clock.advance(2.0)
    await node.settled()

    assert (node.outputs(), headers_of(node)) == ([{}], [{}])


async def test_an_error_of_the_message_has_them_too(start_node: StartNode) -> None:
    node = await start_node(
        """
        from runtime.errors import Reject

        def handler(ctx, data):
            ctx.set_header("kind", "scan")
            raise Reject("no")
        """
    )

    await node.send(1)
    await node.settled()

    assert [(message.type, dict(message.headers)) for message in node.messages()] == [
        (MessageType.ERROR, {"kind": "scan"})
    ]


async def test_each_message_of_a_batch_has_its_own(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: list[str]):
            for item, kind in zip(ctx.items, data):
                item.set_header("kind", kind)
            return data
        """,
        spec=node_spec(batching=BatchingSpec(max_messages=2, wait_s=3600.0)),
    )

    for kind in ("scan", "text"):
        await node.send(kind)
    await node.settled()

    assert headers_of(node) == [{"kind": "scan"}, {"kind": "text"}]


@pytest.mark.parametrize("arguments", [("", "a"), (1, "a"), ("a", 1), ("a", None)])
async def test_a_header_is_a_name_and_a_text(start_node: StartNode, arguments: tuple[Any, Any]) -> None:
    node = await start_node(
        f"""
        def handler(ctx, data):
            ctx.set_header(*{arguments!r})
        """,
        spec=node_spec(retry={"attempts": 1}),
    )

    await node.send(1)
    await node.settled()

    assert node.the_dead_letter().error.startswith("TypeError: ctx.set_header takes a name and a text")


def test_what_a_state_holds_back_keeps_its_headers() -> None:
    entry = StateEntry(
        state_id="a", payload=b"1", request_id="r1", origin=1, subject="s", sequence=1, stored_ns=1, first_number=0,
        outputs=(HeldOutput(b"x", "", MessageType.OK, True, {"kind": "scan"}),),
    )  # fmt: skip

    assert StateEntry.decode(entry.encode()) == entry

    old = json.loads(entry.encode())
    old["outputs"] = [output[:4] for output in old["outputs"]]
    assert [dict(output.headers) for output in StateEntry.decode(json.dumps(old).encode()).outputs] == [{}]
