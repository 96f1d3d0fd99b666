"""What the caller hears of an exit node that reads several nodes: a user's, and the built-in `krt:passthrough`."""

from typing import Any

import pytest

from runtime.message import MessageType
from runtime.payload import decode_value
from runtime.spec import names
from test.support.node import NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

EXIT = node_spec(exit_channel=names.MAIN_CHANNEL)
PASS = {"HANDLER_PATH": names.PASS_HANDLER}
OK, ERROR = MessageType.OK, MessageType.ERROR
EARLY_REPLY, EARLY_EXIT = MessageType.EARLY_REPLY, MessageType.EARLY_EXIT

ANSWERS_FOR_LAST = """
async def of_last(ctx, data):
    await ctx.send_output("done")

async def default_handler(ctx, data):
    pass

custom_handlers = {"last": of_last}
"""


def answers(node: NodeUnderTest) -> list[tuple[MessageType, Any, str]]:
    return [(message.type, decode_value(message.payload), message.outcome) for message in node.replies]


async def test_a_handler_by_source_that_sends_nothing_leaves_the_reply_to_another_node(start_node: StartNode) -> None:
    node = await start_node(ANSWERS_FOR_LAST, spec=EXIT)

    await node.call(1, from_node="first")
    await node.call(2, from_node="last")
    await node.settled()

    assert answers(node) == [(OK, "done", ""), (OK, None, "ok")]


async def test_an_error_that_a_handler_by_source_keeps_ends_the_reply(start_node: StartNode) -> None:
    node = await start_node(f"handle_errors = True\n{ANSWERS_FOR_LAST}", spec=EXIT)

    await node.call(from_node="first", type=ERROR, error="broken")
    await node.settled()

    assert answers(node) == [(OK, None, "ok")]


@pytest.mark.parametrize("kind", [EARLY_REPLY, EARLY_EXIT])
async def test_an_early_answer_that_passes_by_does_not_end_the_reply(start_node: StartNode, kind: MessageType) -> None:
    node = await start_node("async def handler(ctx, data): return 'done'", spec=EXIT)

    await node.call("early", type=kind)
    await node.call("rest")
    await node.settled()

    assert answers(node) == [(OK, "done", "ok")]


async def test_the_built_in_exit_passes_on_what_its_node_sends_and_drops_the_rest(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.PASS_FROM, "last")
    node = await start_node("", spec=EXIT, variables=PASS)

    await node.call(1, from_node="first")
    await node.call(2, from_node="last")
    await node.settled()

    assert node.outputs() == [2]
    assert answers(node) == [(OK, 2, ""), (OK, None, "ok")]


async def test_the_built_in_exit_passes_everything_on_when_no_node_is_named(start_node: StartNode) -> None:
    node = await start_node("", spec=EXIT, variables=PASS)

    await node.send(1, from_node="first")
    await node.send(2, from_node="last")
    await node.settled()

    assert node.outputs() == [1, 2]


@pytest.mark.parametrize("kind", [EARLY_REPLY, EARLY_EXIT])
async def test_the_built_in_exit_passes_early_answers_of_any_node_on(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, kind: MessageType
) -> None:
    monkeypatch.setenv(names.PASS_FROM, "last")
    node = await start_node("", spec=EXIT, variables=PASS)

    await node.send("early", from_node="first", type=kind)
    await node.settled()

    assert [(message.type, decode_value(message.payload)) for message in node.messages()] == [(kind, "early")]


async def test_an_early_answer_that_is_passed_on_reaches_the_caller_from_its_first_sender_only(
    start_node: StartNode,
) -> None:
    node = await start_node("", spec=EXIT, variables=PASS)

    await node.call("early", from_node="first", type=EARLY_REPLY)
    await node.settled()

    assert node.replies == []
