"""What a handler returns, yields or sends, and what the caller hears of it."""

from typing import Any

import pytest
from google.protobuf import any_pb2, wrappers_pb2

from runtime.message import MessageType
from runtime.payload import decode_value, encode_value
from test.support.node import OUTPUT, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

EXIT = node_spec(exit_channel="main")


def answers(node: NodeUnderTest) -> list[tuple[MessageType, Any, str]]:
    return [(reply.type, decode_value(reply.payload), reply.outcome) for reply in node.replies]


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        ("return {'a': 1}", [{"a": 1}]),
        ("return None", []),
        ("return [1, 'two', None, {'three': 3}]", [1, "two", None, {"three": 3}]),
        ("return []", []),
        ("return (1, 2)", [[1, 2]]),
        ("return b'raw'", [b"raw"]),
        ("return ''", [""]),
        ("return 0", [0]),
        ("return False", [False]),
        ("yield 1\n  yield 2", [1, 2]),
        ("if False:\n    yield", []),
    ],
)
async def test_a_result_becomes_outputs(start_node: StartNode, kind: str, result: str, outputs: list[Any]) -> None:
    node = await start_node(f"{kind} handler(ctx, data):\n  {result}", spec=EXIT)

    await node.call()
    await node.settled()

    assert node.outputs() == outputs
    assert [outcome for _, _, outcome in answers(node)][-1] == "ok"
    assert [outcome for _, _, outcome in answers(node)][:-1].count("ok") == 0


async def test_a_protobuf_result_is_packed_and_an_any_is_not_packed_twice(start_node: StartNode) -> None:
    node = await start_node(
        """
        from google.protobuf import wrappers_pb2

        async def handler(ctx, data):
            return [wrappers_pb2.StringValue(value="x"), data]
        """
    )

    await node.send({"a": 1})
    await node.settled()

    first, second = (any_pb2.Any.FromString(message.payload) for message in node.messages())
    assert first.Is(wrappers_pb2.StringValue.DESCRIPTOR)
    assert second.SerializeToString() == encode_value({"a": 1})


async def test_the_last_answer_of_several_carries_the_outcome(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return [1, 2, 3]", spec=EXIT)

    await node.call()
    await node.settled()

    ok = MessageType.OK
    assert answers(node) == [(ok, 1, ""), (ok, 2, ""), (ok, 3, "ok")]


async def test_an_empty_answer_closes_a_reply_whose_end_was_unknown(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data):\n  yield 1\n  yield 2", spec=EXIT)

    await node.call()
    await node.settled()

    ok = MessageType.OK
    assert answers(node) == [(ok, 1, ""), (ok, 2, ""), (ok, None, "ok")]
    assert len(node.stored()) == 2


async def test_a_node_that_is_no_exit_answers_nobody(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return 1")

    await node.call()
    await node.settled()

    assert node.replies == []
    assert node.messages()[0].reply_to == "caller"


async def test_only_the_exit_channel_answers(start_node: StartNode) -> None:
    node = await start_node(
        """
        channels = {"yes": str, "no": str}

        async def handler(ctx, data):
            await ctx.send_output("a", "no")
            await ctx.send_output("b", "yes")
            return "c"
        """,
        spec=node_spec(exit_channel="yes"),
    )

    await node.call()
    await node.settled()

    assert [(value, outcome) for _, value, outcome in answers(node)] == [("b", ""), (None, "ok")]
    assert (node.outputs("no"), node.outputs("yes"), node.outputs()) == (["a"], ["b"], ["c"])


async def test_the_caller_hears_nothing_before_it_is_stored(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return 1", spec=EXIT)
    node.process._readers[0].hold(True)
    await node.call()
    node.broker.fail_publishes(3)
    node.process._readers[0].hold(False)

    await node.until(lambda: node.process._publisher.held)
    assert node.replies == []
    await node.clock.advance(5)
    await node.settled()

    assert len(node.replies) == 1


async def test_generator_items_leave_as_they_come(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        go = asyncio.Event()

        async def handler(ctx, data):
            yield "first"
            await go.wait()
            yield "second"
        """
    )

    await node.send()
    await node.until(lambda: node.outputs() == ["first"])
    assert node.state.ack_pending == 1
    node.module.go.set()
    await node.settled()

    assert node.outputs() == ["first", "second"]


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_generator_that_fails_and_is_retried_repeats_nothing_in_the_stream(
    start_node: StartNode, kind: str
) -> None:
    node = await start_node(
        f"""
        {kind} handler(ctx, data):
            yield "a"
            yield "b"
            if ctx.attempt == 1:
                raise ValueError("half way")
            yield "c"
        """
    )

    await node.send()
    await node.released()
    assert node.outputs() == ["a", "b"]
    await node.clock.advance(2)
    await node.settled()

    assert node.outputs() == ["a", "b", "c"]
    assert [stored.headers["Nats-Msg-Id"] for stored in node.stored()] == ["work.1.0", "work.1.1", "work.1.2"]


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_generator_is_closed_when_an_item_cannot_be_sent(start_node: StartNode, kind: str) -> None:
    node = await start_node(
        f"""
        import threading
        closed = []

        {kind} handler(ctx, data):
            try:
                yield object()
            finally:
                closed.append(threading.current_thread().name)
        """
    )

    await node.send()
    await node.settled()
    await node.until(lambda: len(node.module.closed) == 1)

    assert node.module.closed[0].startswith("work-") == (kind == "def")
    assert node.the_dead_letter().reason == "encode"


async def test_send_output_goes_to_a_declared_channel(start_node: StartNode) -> None:
    node = await start_node(
        """
        channels = ["left", "right"]
        errors = []

        async def handler(ctx, data):
            await ctx.send_output("l", "left")
            await ctx.send_output("m", channel="main")
            for name in ("up", "a.b", "Left"):
                try:
                    await ctx.send_output("x", name)
                except Exception as error:
                    errors.append(str(error))
        """
    )

    await node.send()
    await node.settled()

    assert (node.outputs("left"), node.outputs()) == (["l"], ["m"])
    assert node.module.errors[0] == "node 'work' declares no channel 'up'; declared: left, right"
    assert len(node.module.errors) == 3


async def test_a_module_that_declares_no_channels_may_use_any_name(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data):\n  await ctx.send_output(1, 'any-name')")

    await node.send()
    await node.settled()

    assert node.outputs("any-name") == [1]


async def test_an_early_reply_answers_at_once_and_the_result_follows(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio
        go = asyncio.Event()

        async def handler(ctx, data):
            await ctx.send_early_reply("soon")
            await go.wait()
            return "done"
        """,
        spec=EXIT,
    )

    await node.call()
    await node.until(lambda: len(node.replies) == 1)
    assert answers(node) == [(MessageType.EARLY_REPLY, "soon", "")]
    node.module.go.set()
    await node.settled()

    assert answers(node)[1:] == [(MessageType.OK, "done", "ok")]
    assert [stored.headers["Nats-Msg-Id"] for stored in node.stored()] == ["work.1.r0", "work.1.1"]


@pytest.mark.parametrize("how", ["await ctx.send_early_exit('out')", "ctx.early_exit()\n  return 'out'"])
async def test_an_early_exit_ends_the_request_from_any_node(start_node: StartNode, how: str) -> None:
    node = await start_node(f"async def handler(ctx, data):\n  {how}")

    await node.call()
    await node.settled()

    assert answers(node) == [(MessageType.EARLY_EXIT, "out", "ok")]
    assert [message.type for message in node.messages()] == [MessageType.EARLY_EXIT]


@pytest.mark.parametrize("kind", [MessageType.EARLY_REPLY, MessageType.EARLY_EXIT])
@pytest.mark.parametrize(("reply_to", "forwarded"), [("caller", 0), ("", 1)])
async def test_an_early_answer_of_another_node_never_reaches_a_function_style_handler(
    start_node: StartNode, kind: MessageType, reply_to: str, forwarded: int
) -> None:
    node = await start_node("calls = []\nasync def handler(ctx, data): calls.append(1)")

    await node.send("x", type=kind, reply_to=reply_to)
    await node.settled()

    assert node.module.calls == []
    assert len(node.stored(OUTPUT)) == forwarded


async def test_a_handler_by_source_sees_early_answers(start_node: StartNode) -> None:
    node = await start_node(
        """
        seen = []

        async def default_handler(ctx, data):
            seen.append((ctx.is_message_early_reply(), ctx.is_message_early_exit(), ctx.is_message_ok()))
        """
    )

    await node.send("x", type=MessageType.EARLY_REPLY)
    await node.send("x", type=MessageType.EARLY_EXIT)
    await node.send("x", type=MessageType.UNDEFINED)
    await node.settled()

    assert node.module.seen == [(True, False, False), (False, True, False), (False, False, False)]


async def test_a_swallowed_publish_failure_fails_the_delivery_all_the_same(start_node: StartNode) -> None:
    node = await start_node(
        """
        calls = []

        async def handler(ctx, data):
            calls.append(ctx.attempt)
            try:
                await ctx.send_early_reply("x")
            except Exception:
                return "swallowed"
        """
    )
    node.process._readers[0].hold(True)
    await node.call()
    node.broker.fail_publishes(25)
    node.process._readers[0].hold(False)

    await node.clock.advance(100)
    await node.settled()

    assert node.module.calls == [1, 2]
    assert node.dead_letters() == []
    early = [message for message in node.messages() if message.type is MessageType.EARLY_REPLY]
    assert len(early) == 1


async def test_an_output_too_large_raises_in_the_handler(start_node: StartNode) -> None:
    node = await start_node(
        """
        import os
        from runtime.errors import MessageTooLargeError

        async def handler(ctx, data):
            try:
                await ctx.send_output(os.urandom(2_000_000))
            except MessageTooLargeError as error:
                return f"too large: {type(error).__name__}"
        """
    )

    await node.send()
    await node.settled()

    assert node.outputs() == ["too large: MessageTooLargeError"]
