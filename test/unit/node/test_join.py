"""A join: the parts of a request come in any order, twice, late or never."""

import random
from typing import Any

import numpy as np
import pytest

from runtime import wire
from runtime.bus.base import KeyValue
from runtime.errors import HandlerLoadError
from runtime.message import Message, MessageType
from runtime.node import part_set
from runtime.node.part_set import PartSet
from runtime.payload import decode_value, encode_value
from runtime.spec import names
from runtime.spec.node import JoinSpec, NodeSpec
from test.support.node import ENTRYPOINT, NODE, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

BUCKET = names.join_bucket(STREAM, NODE)
OTHER = names.node_subject(STREAM, "other")
INPUTS = {"NATS_INPUTS": f"{ENTRYPOINT},{OTHER}"}

BOTH = """
    calls = []

    async def handler(ctx, data: dict):
        calls.append(data)
        return [[data.get("left"), data.get("right")]]
"""


def join_spec(**changes: Any) -> NodeSpec:
    fields = {"key": "request_id", "timeout_s": 5.0, "partial": False, **changes}
    return node_spec(join=JoinSpec(bucket=BUCKET, parts={ENTRYPOINT: "left", OTHER: "right"}, **fields))


@pytest.fixture
def start(start_node: StartNode) -> StartNode:
    async def start(source: str, **changes: Any) -> NodeUnderTest:
        return await start_node(source, spec=join_spec(**changes), variables=INPUTS)

    return start


async def send(node: NodeUnderTest, subject: str, value: Any = None, request_id: str = "r1", **fields: Any) -> int:
    message = Message(**{"request_id": request_id, "payload": encode_value(value), "from_node": "entrypoint", **fields})
    return await node.send_bytes(wire.encode(message), subject=subject)


async def left(node: NodeUnderTest, value: Any = 1, request_id: str = "r1", **fields: Any) -> int:
    return await send(node, ENTRYPOINT, value, request_id, **fields)


async def right(node: NodeUnderTest, value: Any = 2, request_id: str = "r1", **fields: Any) -> int:
    return await send(node, OTHER, value, request_id, **fields)


async def sets_of(node: NodeUnderTest, key: str = "r1") -> tuple[PartSet, ...]:
    bucket: KeyValue = await node.outside.key_value(BUCKET)
    return part_set.decode((await bucket.get(names.state_key(key))).value)


@pytest.mark.parametrize("order", [(left, right), (right, left)])
async def test_a_set_is_handled_once_when_its_last_part_is_there(start: StartNode, order: Any) -> None:
    node = await start(BOTH)
    first, last = order

    await first(node)
    await node.released()
    assert node.outputs() == []
    sequence = await last(node)
    await node.until(lambda: len(node.outputs()) == 1)

    assert node.outputs() == [[1, 2]]
    assert node.stored()[0].headers["Nats-Msg-Id"] == f"{NODE}.{sequence}.0"
    [done] = await sets_of(node)
    assert done.is_done
    assert all(kept.data == b"" for kept in done.parts.values())
    await node.clock.advance(5.1)
    await node.settled()
    assert len(node.module.calls) == 1


async def test_requests_are_joined_with_themselves(start: StartNode) -> None:
    node = await start(BOTH)

    for number in range(20):
        await left(node, number, f"r{number}")
    for number in reversed(range(20)):
        await right(node, number, f"r{number}")
    await node.until(lambda: len(node.outputs()) == 20)

    assert sorted(node.outputs()) == [[number, number] for number in range(20)]


async def test_a_class_gets_its_parts_by_field_each_in_its_own_type(start: StartNode) -> None:
    node = await start(
        """
        from dataclasses import dataclass
        from pydantic import BaseModel

        class Page(BaseModel):
            number: int

        @dataclass
        class Parts:
            left: Page
            right: bytes
            seen: int = 0

        async def handler(ctx, data: Parts):
            return {"page": data.left.number, "size": len(data.right), "from": ctx.from_node}
        """
    )

    await right(node, b"abc", from_node="other")
    await left(node, {"number": 7})
    await node.until(lambda: len(node.outputs()) == 1)

    assert node.outputs() == [{"page": 7, "size": 3, "from": "entrypoint"}]


async def test_an_array_and_a_mapping_meet_as_what_they_are(start: StartNode) -> None:
    node = await start("""
        async def handler(ctx, data: dict):
            return {"sum": int(data["left"].sum()), "about": data["right"]}
    """)

    await left(node, np.arange(4))
    await right(node, {"camera": 1})
    await node.until(lambda: len(node.outputs()) == 1)

    assert node.outputs() == [{"sum": 6, "about": {"camera": 1}}]


@pytest.mark.parametrize(
    ("fields", "partial", "found"),
    [
        ("left: int", False, "has no field 'right'"),
        ("left: int\n    right: int\n    extra: int", False, "field 'extra' is no part"),
        ("left: int\n    right: int = 0", True, "field 'left' needs a default"),
    ],
)
async def test_a_class_that_cannot_hold_the_parts_fails_the_start(
    start: StartNode, fields: str, partial: bool, found: str
) -> None:
    source = (
        f"from dataclasses import dataclass\n@dataclass\nclass P:\n    {fields}\nasync def handler(ctx, data: P): ...\n"
    )

    with pytest.raises(HandlerLoadError, match=found):
        await start(source, partial=partial)


async def test_parts_that_come_again_are_harmless(start: StartNode) -> None:
    node = await start(BOTH)

    await left(node, 1)
    await left(node, 11)
    await right(node, 2)
    await right(node, 22)
    await node.until(lambda: len(node.outputs()) == 1)
    await left(node, 111)
    await node.clock.advance(5.1)
    await node.settled()

    assert node.outputs() == [[1, 2]]
    assert node.dead_letters() == []


async def test_an_incomplete_set_is_a_dead_letter_and_its_caller_hears_of_it(start_node: StartNode) -> None:
    spec = join_spec().model_copy(update={"exit_channel": "main"})
    node = await start_node(BOTH, spec=spec, variables=INPUTS)

    await left(node, reply_to="caller")
    await node.released()
    assert node.replies == []
    await node.clock.advance(4.9)
    assert node.dead_letters() == []
    await node.clock.advance(0.2)
    await node.settled()

    assert node.the_dead_letter().reason == "join-timeout"
    assert "right did not come within 5 s" in node.the_dead_letter().error
    assert [(reply.type, reply.outcome) for reply in node.replies] == [(MessageType.ERROR, "timeout")]
    assert node.module.calls == []


async def test_a_late_part_waits_for_the_redrive_of_its_dead_letter(start: StartNode) -> None:
    node = await start(BOTH)
    sequence = await left(node)
    await node.released()
    await node.clock.advance(5.1)
    await node.settled()
    await right(node)
    await node.settled()
    assert (node.outputs(), len(node.dead_letters())) == ([], 1)

    headers = {names.ORIGIN_HEADER: str(sequence), names.REDRIVE_HEADER: "1"}
    message = Message(request_id="r1", payload=encode_value(1), from_node="entrypoint")
    await node.send_bytes(wire.encode(message), headers, subject=ENTRYPOINT)
    await node.settled()

    assert node.outputs() == [[1, 2]]


async def test_a_partial_set_is_handled_with_what_is_there(start: StartNode) -> None:
    node = await start(BOTH, partial=True)

    await right(node)
    await node.released()
    await node.clock.advance(5.1)
    await node.settled()
    await left(node)
    await node.settled()

    assert node.module.calls == [{"right": 2}]
    assert node.outputs() == [[None, 2]]
    assert node.dead_letters() == []


async def test_a_handler_that_fails_is_called_again_with_the_whole_set(start: StartNode) -> None:
    node = await start(
        """
        calls = []

        async def handler(ctx, data: dict):
            calls.append(data)
            if len(calls) < 3:
                raise ValueError("not yet")
            return data
        """
    )

    await left(node)
    await right(node)
    await node.until(lambda: len(node.module.calls) == 1)
    await node.clock.advance(4.0)
    await node.until(lambda: len(node.outputs()) == 1)

    assert node.module.calls == [{"left": 1, "right": 2}] * 3


async def test_only_the_answer_of_the_set_reaches_the_caller(start_node: StartNode) -> None:
    spec = join_spec().model_copy(update={"exit_channel": "main"})
    node = await start_node(BOTH, spec=spec, variables=INPUTS)

    await left(node, reply_to="caller")
    await right(node, reply_to="caller")
    await node.until(lambda: len(node.outputs()) == 1)
    await node.clock.advance(5.1)
    await node.settled()

    assert [(decode_value(reply.payload), reply.outcome) for reply in node.replies] == [([1, 2], "ok")]


async def test_an_error_in_place_of_a_part_passes_and_the_others_do_not_wait(start: StartNode) -> None:
    node = await start(BOTH)

    await left(node)
    await right(node, type=MessageType.ERROR, error="boom", payload=b"")
    await node.clock.advance(5.1)
    await node.settled()

    assert [message.error for message in node.errors()] == ["boom"]
    assert (node.module.calls, node.dead_letters()) == ([], [])


async def test_a_header_joins_messages_of_several_requests(start: StartNode) -> None:
    node = await start(BOTH, key="header.page")

    await left(node, 1, "r1", headers={"page": "7"})
    await left(node, 3, "r2", headers={"page": "8"})
    await right(node, 4, "r3", headers={"page": "8"})
    await right(node, 2, "r4", headers={"page": "7"})
    await node.until(lambda: len(node.outputs()) == 2)
    await left(node, 5, "r5")
    await node.clock.advance(5.1)
    await node.settled()

    assert node.outputs() == [[3, 4], [1, 2]]
    assert node.the_dead_letter().reason == "join"
    assert "no header 'page'" in node.the_dead_letter().error


async def test_a_state_id_joins_again_and_again(start: StartNode) -> None:
    node = await start(BOTH, key="state_id")

    for number in range(5):
        await left(node, number, f"l{number}", state_id="cam-1")
        await right(node, number, f"r{number}", state_id="cam-1")
    await node.until(lambda: len(node.outputs()) == 5)

    assert node.outputs() == [[number, number] for number in range(5)]


async def test_a_replica_that_starts_later_keeps_the_time_of_a_set(start_node: StartNode) -> None:
    first = await start_node(BOTH, spec=join_spec(), variables=INPUTS)
    await left(first)
    await first.released()
    await first.clock.advance(3.0)
    await first.stop()

    second = await start_node(BOTH, spec=join_spec(), variables=INPUTS, broker=first.broker)
    await second.clock.advance(2.5)
    await second.settled()

    assert second.the_dead_letter().reason == "join-timeout"


async def test_parts_that_are_too_large_together_are_told(start_node: StartNode) -> None:
    node = await start_node(BOTH, spec=join_spec(), variables=INPUTS, max_payload_bytes=16 * 1024)

    await left(node, random.randbytes(5_000).hex())
    await right(node, random.randbytes(5_000).hex())
    await node.clock.advance(5.1)
    await node.settled()

    letters = {letter.reason: letter.error for _, letter in node.dead_letters()}
    assert sorted(letters) == ["join-timeout", "too-large"]
    assert "the parts of 'r1' have" in letters["too-large"]
