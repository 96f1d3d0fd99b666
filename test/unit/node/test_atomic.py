"""A node with `atomic: true`: all outputs of a delivery are stored together, or none."""

from dataclasses import replace
from typing import Any

import pytest

from runtime.bus.batch import MAX_MESSAGES
from runtime.message import MessageType, ReplyOutcome
from runtime.payload import decode_value
from runtime.spec.node import NodeSpec
from test.support.node import STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

THREE = """
    async def handler(ctx, data: int):
        return [data, data + 1, data + 2]
"""


def atomic(**changes: Any) -> NodeSpec:
    return node_spec(**{"atomic": True, **changes})


def numbers(node: NodeUnderTest) -> list[str]:
    """Return the message ids of the outputs without the node and the input's sequence."""
    return [message.headers["Nats-Msg-Id"].rsplit(".", 1)[1] for message in node.stored()]


HANDLERS = {
    "a list": THREE,
    "a generator": """
    def handler(ctx, data: int):
        for number in range(3):
            yield data + number
    """,
    "sent and returned": """
    async def handler(ctx, data: int):
        await ctx.send_output(data)
        await ctx.send_output(data + 1)
        return data + 2
    """,
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
async def test_the_outputs_of_a_delivery_are_stored_in_their_order(start_node: StartNode, handler: str) -> None:
    node = await start_node(handler, spec=atomic())

    await node.send(10)
    await node.settled()

    assert node.outputs() == [10, 11, 12]
    assert numbers(node) == ["0", "1", "2"]


async def test_nothing_is_stored_before_the_handler_is_through(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        go = asyncio.Event()
        waiting = asyncio.Event()

        async def handler(ctx, data: int):
            await ctx.send_output(1)
            await ctx.send_output(2)
            waiting.set()
            await go.wait()
            return 3
        """,
        spec=atomic(),
    )

    await node.send(10)
    await node.until(node.module.waiting.is_set)
    assert node.outputs() == []
    node.module.go.set()
    await node.settled()

    assert node.outputs() == [1, 2, 3]


@pytest.mark.parametrize("ending", ["raise ValueError('no')", "raise Reject('no')", "return Drop('no')"])
async def test_an_attempt_that_does_not_end_well_leaves_no_output(start_node: StartNode, ending: str) -> None:
    node = await start_node(
        f"""
        from runtime.errors import Drop, Reject

        async def handler(ctx, data: int):
            await ctx.send_output(1)
            await ctx.send_output(2)
            {ending}
        """,
        spec=atomic(retry=node_spec().retry.model_copy(update={"attempts": 1})),
    )

    await node.send(10)
    await node.settled()

    assert node.outputs() == []
    assert len(node.dead_letters()) == (0 if "Drop" in ending else 1)


async def test_a_full_stream_stores_none_of_them_until_all_have_room(start_node: StartNode) -> None:
    node = await start_node("def handler(ctx, data: int):\n    return ['x' * 400] * 3", spec=atomic(), max_bytes=1_200)

    await node.send(10)
    await node.until(lambda: node.process._publisher.held)
    await node.clock.advance(5)
    assert node.outputs() == []
    stream = node.broker.streams.stream(STREAM)
    stream.config = replace(stream.config, max_bytes=0)
    await node.clock.advance(5)
    await node.settled()

    assert len(node.outputs()) == 3


async def test_a_delivery_that_comes_again_stores_nothing_again(start_node: StartNode) -> None:
    node = await start_node(THREE, spec=atomic())
    sequence = await node.send(10)
    await node.settled()

    node.broker.redeliver(STREAM, node_spec().durable, sequence)
    await node.settled()

    assert node.outputs() == [10, 11, 12]


async def test_more_outputs_than_a_batch_holds_are_a_dead_letter_and_none_of_them_is_stored(
    start_node: StartNode,
) -> None:
    node = await start_node("def handler(ctx, data: int):\n    return [0] * data", spec=atomic())

    await node.send(MAX_MESSAGES + 1)
    await node.send(MAX_MESSAGES)
    await node.settled()

    assert len(node.outputs()) == MAX_MESSAGES
    died = node.the_dead_letter()
    assert died.reason == "too-large"
    assert "1,001 messages" in died.error


async def test_an_output_that_is_too_large_takes_the_others_with_it(start_node: StartNode) -> None:
    node = await start_node(
        "import secrets\n\ndef handler(ctx, data: int):\n    return ['small', secrets.token_hex(8_000), 'small']",
        spec=atomic(),
        max_payload_bytes=6_000,
    )

    await node.send(10)
    await node.settled()

    assert node.outputs() == []
    assert node.the_dead_letter().reason == "too-large"


async def test_an_early_reply_does_not_wait_for_the_batch(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        go = asyncio.Event()

        async def handler(ctx, data: int):
            await ctx.send_output("held")
            await ctx.send_early_reply("now")
            await go.wait()
            return "held too"
        """,
        spec=atomic(exit_channel="main"),
    )

    await node.call(10)
    await node.until(lambda: len(node.replies) == 1)
    assert [message.type for message in node.messages()] == [MessageType.EARLY_REPLY]
    node.module.go.set()
    await node.settled()

    assert [decode_value(reply.payload) for reply in node.replies] == ["now", "held", "held too"]
    assert [reply.outcome for reply in node.replies] == ["", "", ReplyOutcome.OK]


async def test_a_single_output_is_published_like_that_of_any_node(start_node: StartNode) -> None:
    node = await start_node("def handler(ctx, data: int):\n    return data", spec=atomic())
    node.broker.streams.stream(STREAM).store_batch = None  # type: ignore[method-assign,assignment]  # not to be called

    await node.send(10)
    await node.settled()

    assert node.outputs() == [10]


async def test_an_unknown_channel_is_refused_where_the_handler_uses_it(start_node: StartNode) -> None:
    node = await start_node(
        """
        from runtime.errors import ContextError

        async def handler(ctx, data: int):
            try:
                await ctx.send_output(1, "no channel")
            except ContextError:
                return ["refused", "and", "told"]
        """,
        spec=atomic(),
    )

    await node.send(10)
    await node.settled()

    assert node.outputs() == ["refused", "and", "told"]


async def test_an_ordered_node_may_be_atomic(start_node: StartNode) -> None:
    node = await start_node(THREE, spec=atomic(partitions=2))

    for number in (10, 20, 30):
        await node.send(number, state_id="a")
    await node.settled()

    assert node.outputs() == [10, 11, 12, 20, 21, 22, 30, 31, 32]
