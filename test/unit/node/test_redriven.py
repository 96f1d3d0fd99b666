"""A message that was given back after a dead letter: its history goes on, its attempts and its time begin anew."""

from runtime import wire
from runtime.deadletter import Attempt, attempts_to_header
from runtime.message import Message
from runtime.payload import encode_value
from test.support.node import node_spec
from test.unit.node.conftest import StartNode

FAILS = """
    def handler(ctx, data: dict):
        raise ValueError("wrong")
"""


async def test_attempts_before_a_redrive_stay_in_the_next_dead_letter_and_do_not_count(start_node: StartNode) -> None:
    node = await start_node(FAILS)
    earlier = Attempt(attempt=3, time_s=1.0, error="KeyError: 'name'")
    headers = {"Krt-Origin": "7", "Krt-Redrive": "1", "Krt-Attempts": attempts_to_header([earlier], 1_000)}

    await node.send_bytes(wire.encode(Message(request_id="r1", payload=encode_value({}))), headers)
    for _ in range(3):
        await node.released()
        await node.clock.advance(10.0)

    letter = node.the_dead_letter()
    assert [(each.redrive, each.attempt) for each in letter.attempts] == [(0, 3), (1, 1), (1, 2), (1, 3)]
    assert (letter.origin, letter.redrive, letter.sequence) == (7, 1, 1)
    assert letter.headers.keys() == {"Nats-Msg-Id", "Krt-Origin", "Krt-Redrive"}


async def test_a_redriven_message_has_no_deadline_any_more(start_node: StartNode) -> None:
    node = await start_node(
        """
        def handler(ctx, data: dict):
            return {"deadline": ctx.deadline is not None}
        """,
        spec=node_spec(timeout_s=None),
    )
    data = wire.encode(Message(request_id="r1", payload=encode_value({}), deadline_ms=1))

    await node.send_bytes(data)
    await node.send_bytes(data, {"Krt-Origin": "1", "Krt-Redrive": "1"})
    await node.settled()

    assert node.outputs() == [{"deadline": True}, {"deadline": False}]
    assert [message.deadline_ms for message in node.messages()] == [1, 0]
