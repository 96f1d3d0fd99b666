"""A request that its caller has cancelled: a node that has not begun it skips it, and nothing else is touched."""

import logging
from typing import Any

import pytest

from runtime import wire
from runtime.clock import settle
from runtime.errors import NotFoundError
from runtime.message import Message
from runtime.node import cancellations
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.node import JoinSpec, NodeSpec, StateSpec
from test.support.node import ENTRYPOINT, NODE, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

OTHER = names.node_subject(STREAM, "other")
INPUTS = {"NATS_INPUTS": f"{ENTRYPOINT},{OTHER}"}
STATES, SETS = names.state_bucket(STREAM, NODE), names.join_bucket(STREAM, NODE)

NOTES = """
    import asyncio

    calls, go = [], asyncio.Event()

    async def handler(ctx, data: str):
        calls.append(data)
        if data == "wait":
            await go.wait()
        if data == "fail" and ctx.attempt == 1:
            raise ValueError(data)
        return data
"""
PARTS = """
    calls = []

    async def handler(ctx, data: dict):
        calls.append(data)
        return 1
"""


async def cancel(node: NodeUnderTest, *request_ids: str) -> None:
    for request_id in request_ids:
        node.outside.send(names.cancel_subject(STREAM), request_id.encode())
    await settle()


def counts_of(node: NodeUnderTest) -> tuple[int, int]:
    totals = node.process.metrics.totals()
    return totals["taken"], totals["cancelled"]


def join_spec(key: str) -> NodeSpec:
    parts = {ENTRYPOINT: "left", OTHER: "right"}
    return node_spec(join=JoinSpec(bucket=SETS, parts=parts, key=key, timeout_s=5.0, partial=False))


async def send_part(node: NodeUnderTest, subject: str, request_id: str, **fields: Any) -> None:
    message = Message(request_id=request_id, payload=encode_value(1), from_node="entrypoint", **fields)
    await node.send_bytes(wire.encode(message), subject=subject)


async def test_a_cancelled_request_is_acked_without_a_call_an_output_or_an_answer(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(NOTES, spec=node_spec(exit_channel="main"))
    await cancel(node, "r1")

    with caplog.at_level(logging.DEBUG):
        await node.call("a", request_id="r1")
        await node.call("b", request_id="r2")
        await node.settled()

    assert node.module.calls == node.outputs() == ["b"]
    assert [reply.request_id for reply in node.replies] == ["r2"]
    assert node.dead_letters() == []
    assert counts_of(node) == (2, 1)
    skipped = [record for record in caplog.records if getattr(record, "action", "") == "cancelled"]
    assert [getattr(record, "request_id", "") for record in skipped] == ["r1"]


async def test_a_handler_that_has_begun_is_not_disturbed(start_node: StartNode) -> None:
    node = await start_node(NOTES)
    await node.send("wait", request_id="r1")
    await node.until(lambda: node.module.calls == ["wait"])

    await cancel(node, "r1")
    node.module.go.set()
    await node.settled()

    assert node.outputs() == ["wait"]


async def test_a_message_that_waits_for_its_next_attempt_is_skipped_and_its_failures_are_forgotten(
    start_node: StartNode,
) -> None:
    node = await start_node(NOTES)
    await node.send("fail", request_id="r1")
    await node.released()

    await cancel(node, "r1")
    await node.clock.advance(2.0)
    await node.settled()
    await settle()

    assert (node.module.calls, node.outputs()) == (["fail"], [])
    attempts = await node.outside.key_value(names.attempts_bucket(STREAM))
    with pytest.raises(NotFoundError):
        await attempts.get(f"{NODE}/1")


async def test_what_is_redriven_is_wanted_and_handled(start_node: StartNode) -> None:
    node = await start_node(NOTES)
    await cancel(node, "r1")

    data = wire.encode(Message(request_id="r1", payload=encode_value("a"), from_node="entrypoint"))
    await node.send_bytes(data, {"Krt-Origin": "1", "Krt-Redrive": "1"})
    await node.settled()

    assert node.outputs() == ["a"]


async def test_a_cancelled_request_is_forgotten_after_ten_minutes(start_node: StartNode) -> None:
    node = await start_node(NOTES)
    await cancel(node, "r1", "r2")

    await node.clock.advance(599.0)
    await node.send("early", request_id="r1")
    await node.settled()
    await node.clock.advance(1.0)
    await node.send("late", request_id="r2")
    await node.settled()

    assert node.outputs() == ["late"]
    assert not node.process._cancellations


async def test_the_latest_cancelled_requests_are_known(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "MAX_REQUESTS", 2)
    node = await start_node(NOTES)

    await cancel(node, "r1", "r2", "r1", "r3", "r" * 1_025)
    for request_id in ("r1", "r2", "r3", "r" * 1_025):
        await node.send(request_id[:2] + request_id[-1], request_id=request_id)
    await node.settled()

    assert node.outputs() == ["r22", "rrr"]


async def test_a_bare_node_takes_no_part(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): await ctx.send_any(data)", bare=True)

    await cancel(node, "r1")
    await node.send("a", request_id="r1")
    await node.settled()

    assert node.outputs() == ["a"]


async def test_a_skipped_message_changes_no_state(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: int):
            ctx.state["count"] = ctx.state.get("count", 0) + data
            return ctx.state["count"]
        """,
        spec=node_spec(partitions=2, state=StateSpec(bucket=STATES)),
    )
    await cancel(node, "r2")

    for number in (1, 2, 3):
        await node.send(number, request_id=f"r{number}", state_id="a")
    await node.settled()

    assert node.outputs() == [1, 4]


async def test_the_parts_of_a_cancelled_request_are_skipped_and_its_set_never_ends(start_node: StartNode) -> None:
    node = await start_node(PARTS, spec=join_spec("request_id"), variables=INPUTS)
    await send_part(node, ENTRYPOINT, "r1")
    await node.released()

    await cancel(node, "r1")
    await send_part(node, OTHER, "r1")
    await node.released()
    await node.clock.advance(5.1)
    await node.settled()

    assert (node.module.calls, node.dead_letters()) == ([], [])
    assert counts_of(node)[1] == 2


async def test_a_set_of_several_requests_still_ends_when_the_first_of_them_is_cancelled(start_node: StartNode) -> None:
    node = await start_node(PARTS, spec=join_spec("header.page"), variables=INPUTS)
    await send_part(node, ENTRYPOINT, "r1", headers={"page": "7"})
    await node.released()

    await cancel(node, "r1", "r2")
    await send_part(node, OTHER, "r2", headers={"page": "7"})
    await node.released()
    await node.clock.advance(5.1)
    await node.settled()

    assert node.module.calls == []
    assert node.the_dead_letter().reason == "join-timeout"
    assert counts_of(node)[1] == 1
