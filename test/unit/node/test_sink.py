"""Nodes with `sink`: each message is stored once before it is acknowledged; bad ones are dead letters that say why."""

import json
import logging
from typing import Any

import pytest

from runtime import wire
from runtime.errors import DecodeError, StoreError, StoreUnavailableError
from runtime.message import Message
from runtime.node.builtin.sink_records import document_of, point_of
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.node import JoinSpec, NodeSpec
from runtime.spec.sink import DocumentSink, PointSink, SinkSpec
from runtime.stores.base import Point
from test.support.node import ENTRYPOINT, NODE, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

OTHER = names.node_subject(STREAM, "other")
STORED_NS = 1_700_000_000_000_000_000
TAGS = {"version": "v1", "workflow": "greeter", "node": NODE}


def sink(spec: SinkSpec, **changes: Any) -> NodeSpec:
    return node_spec(sink=spec, **changes)


async def documents(node: NodeUnderTest, collection: str = "scores") -> list[dict[str, Any]]:
    return await node.process._stores.documents.find(collection, {})


async def points(node: NodeUnderTest, measurement: str = "score") -> list[Point]:
    return await node.process._stores.points.query(measurement)


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


# --- documents ---


async def test_a_message_is_stored_under_its_key_and_nothing_is_sent(start_node: StartNode) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores", key="document.id")))
    await node.run_writer()

    await node.send({"document": {"id": "a"}, "score": 0.5})
    await node.settled()

    assert await documents(node) == [{"_id": "a", "document": {"id": "a"}, "score": 0.5}]
    assert (node.messages(), node.dead_letters()) == ([], [])


async def test_without_a_key_a_repeated_delivery_is_stored_once_under_the_id_of_the_message(
    start_node: StartNode,
) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores")))
    await node.run_writer()
    data = wire.encode(Message(request_id="r1", payload=encode_value({"n": 1})))

    await node.send_bytes(data)
    await node.send_bytes(data, {"Krt-Origin": "1", "Krt-Redrive": "1"})
    await node.send({"n": 2})
    await node.settled()

    assert [document["n"] for document in await documents(node)] == [1, 2]


async def test_two_messages_of_one_key_and_content_are_one_document_and_another_content_is_a_dead_letter(
    start_node: StartNode,
) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores", key="id")))
    await node.run_writer()

    for score in (1, 1, 2):
        await node.send({"id": 7, "score": score})
    for _ in range(3):
        await node.released()
        await node.clock.advance(10.0)
    await node.settled()

    assert await documents(node) == [{"_id": 7, "id": 7, "score": 1}]
    assert (node.the_dead_letter().sequence, node.the_dead_letter().reason) == (3, "failed")
    assert "another document with the _id 7" in node.the_dead_letter().error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([1], "a sink stores JSON objects, and this message is a list"),
        (None, "a sink stores JSON objects, and this message is empty"),
        (b"{}", "a sink stores JSON objects, and this message is bytes"),
        ({"score": 1}, "the message has no 'id', which is the key of its document"),
        ({"id": ""}, "'id' is an empty text, and a key is a text or a whole number"),
        ({"id": True}, "'id' is a boolean, and a key is a text or a whole number"),
        ({"id": 1.5}, "'id' is a number, and a key is a text or a whole number"),
        ({"id": 1, "_id": 2}, "the message has an '_id' of its own beside 'id', which becomes its _id"),
        ({"id": 1, "n": 2**63}, "no document: 'n' is 9223372036854775808, an integer beyond 64 bits; send it as text"),
    ],
)
async def test_what_is_no_document_is_a_dead_letter_at_once(start_node: StartNode, data: Any, error: str) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores", key="id")))
    await node.run_writer()

    await node.send(data)
    await node.settled()

    letter = node.the_dead_letter()
    assert (letter.reason, letter.error, len(letter.attempts)) == ("payload", f"DecodeError: {error}", 0)
    assert await documents(node) == []


async def test_a_message_waits_while_the_writer_is_away_and_uses_up_no_attempt(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores"), timeout_s=None))

    with caplog.at_level(logging.INFO):
        await node.send({"n": 1})
        for _ in range(5):
            await node.clock.advance(61.0)
        await node.run_writer()
        await node.clock.advance(61.0)
        await node.settled()

    assert [document["n"] for document in await documents(node)] == [1]
    assert node.dead_letters() == []
    assert [action for action in actions(caplog) if action.startswith("store_")] == ["store_away", "store_back"]


async def test_a_store_that_is_late_is_no_handler_that_took_too_long(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    # Half of this passes in real time, while the clock of the node stands still.
    node = await start_node("", spec=sink(DocumentSink(collection="scores"), timeout_s=0.2))

    with caplog.at_level(logging.INFO):
        await node.send({"n": 1})
        await node.until(lambda: "store_away" in actions(caplog))

    assert "no answer for 0.1 s" in caplog.text
    assert node.process.metrics.totals()["retried"] == 1


async def test_a_sink_that_is_the_output_answers_once_it_has_stored(start_node: StartNode) -> None:
    node = await start_node("", spec=sink(DocumentSink(collection="scores", key="id"), exit_channel="main"))
    await node.run_writer()

    await node.call({"id": 1})
    await node.call({"score": 1}, request_id="r2")
    await node.settled()

    assert {reply.request_id: reply.outcome for reply in node.replies} == {"r1": "ok", "r2": "invalid"}


async def test_the_parts_of_a_join_are_one_document(start_node: StartNode) -> None:
    bucket = names.join_bucket(STREAM, NODE)
    parts = {ENTRYPOINT: "left", OTHER: "right"}
    join = JoinSpec(bucket=bucket, parts=parts, key="request_id", timeout_s=5.0, partial=False)
    spec = sink(DocumentSink(collection="scores", key="left.id"), join=join)
    node = await start_node("", spec=spec, variables={"NATS_INPUTS": f"{ENTRYPOINT},{OTHER}"})
    await node.run_writer()

    await node.send({"id": 1})
    await node.send_bytes(wire.encode(Message(request_id="r1", payload=encode_value(2))), subject=OTHER)
    await node.released()

    assert await documents(node) == [{"_id": 1, "left": {"id": 1}, "right": 2}]


def test_a_message_with_an_id_of_its_own_keeps_it() -> None:
    assert document_of(DocumentSink(collection="a"), {"n": 1, "_id": "x"}) == {"n": 1, "_id": "x"}
    assert document_of(DocumentSink(collection="a", key="_id"), {"_id": "x"}) == {"_id": "x"}
    with pytest.raises(DecodeError, match="'_id' is a list"):
        document_of(DocumentSink(collection="a"), {"_id": []})


# --- points ---


async def test_a_message_is_stored_as_a_point_at_the_time_at_which_it_was_sent(start_node: StartNode) -> None:
    node = await start_node("", spec=sink(PointSink(measurement="score", tags=("label",))))

    await node.send({"value": 1.5, "sure": True, "label": "scan", "text": "left out"})
    await node.settled()

    (stored,) = node.stored(ENTRYPOINT)
    assert await points(node) == [
        Point("score", {"value": 1.5, "sure": True}, {"label": "scan", **TAGS}, stored.time_ns)
    ]
    assert node.process.metrics.totals()["points_written"] == 1


async def test_a_point_that_comes_again_is_stored_once(start_node: StartNode) -> None:
    node = await start_node("", spec=sink(PointSink(measurement="score", fields=("value",), time="at")))

    for _ in range(2):
        await node.send({"value": 1, "at": 5})
    await node.settled()

    assert await points(node) == [Point("score", {"value": 1}, TAGS, 5)]


async def test_a_message_waits_while_the_store_of_points_is_away(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node("", spec=sink(PointSink(measurement="score")))
    store = node.process._stores.points
    written, failures = store.write, [StoreUnavailableError("busy")] * 6

    async def write(given: list[Point]) -> None:
        if failures:
            raise failures.pop()
        await written(given)

    monkeypatch.setattr(store, "write", write)
    await node.send({"value": 1})
    for _ in range(7):
        await node.released()
        await node.clock.advance(5.0)
    await node.settled()

    assert (len(await points(node)), node.dead_letters()) == (1, [])


async def test_a_point_that_the_store_refuses_is_tried_again_and_then_a_dead_letter(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node("", spec=sink(PointSink(measurement="score")))

    async def write(given: list[Point]) -> None:
        raise StoreError("1 of 1 points are refused")

    monkeypatch.setattr(node.process._stores.points, "write", write)
    await node.send({"value": 1})
    for _ in range(3):
        await node.released()
        await node.clock.advance(10.0)
    await node.settled()

    assert (node.the_dead_letter().reason, len(node.the_dead_letter().attempts)) == ("failed", 3)


ALL = PointSink(measurement="score", fields=("value", "time.spent"), tags=("label", "page.number"), time="at")


@pytest.mark.parametrize(
    ("at", "time_ns"),
    [
        (STORED_NS + 1, STORED_NS + 1),
        ("2023-11-14T22:13:20Z", STORED_NS),
        ("2023-11-14T23:13:20.000001+01:00", STORED_NS + 1_000),
        ("2023-11-14T22:13:20", STORED_NS),
    ],
)
def test_fields_tags_and_time_are_those_that_are_named(at: Any, time_ns: int) -> None:
    data = {"value": 1, "time": {"spent": 2.5}, "label": None, "page": {"number": 3}, "at": at, "other": 4}

    point = point_of(ALL, data, runtime_tags={"node": "a"}, stored_ns=1)

    assert point == Point("score", {"value": 1, "time.spent": 2.5}, {"page.number": "3", "node": "a"}, time_ns)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"value": "1"}, "'value' is a text, and a field is a number or a boolean"),
        ({"value": None}, "'value' is empty, and a field is a number or a boolean"),
        ({"value": 2**63}, "'value' is a whole number, and a field is a number or a boolean"),
        ({"time": 1}, "the message has no 'time.spent', which is a field of its point"),
        ({"label": ["a"]}, "'label' is a list, and a tag is a text, a number or a boolean"),
        ({"at": "yesterday"}, "'at' is a text, and a time is an ISO 8601 text or a whole number of nanoseconds"),
        ({"at": True}, "'at' is a boolean, and a time is an ISO 8601 text or a whole number of nanoseconds"),
        ({"at": 2**63}, "'at' is not within the years 1678 to 2261"),
        ({"at": "9999-01-01"}, "'at' is not within the years 1678 to 2261"),
    ],
)
def test_what_is_no_point_is_told_without_its_value(changes: dict[str, Any], error: str) -> None:
    data = {"value": 1, "time": {"spent": 2.5}, "at": 1, **changes}

    with pytest.raises(DecodeError) as caught:
        point_of(ALL, data, runtime_tags={}, stored_ns=1)

    assert (str(caught.value), caught.value.reason) == (error, "payload")


def test_a_message_without_a_number_is_no_point() -> None:
    with pytest.raises(DecodeError, match="no number and no boolean"):
        point_of(PointSink(measurement="score", tags=("n",)), {"n": 1, "text": "a"}, runtime_tags={}, stored_ns=1)


def test_the_spec_of_a_sink_comes_through_json_as_it_was() -> None:
    for spec in (sink(DocumentSink(collection="a", key="b")), sink(PointSink(measurement="a", fields=("b",)))):
        assert NodeSpec.model_validate(json.loads(spec.model_dump_json())) == spec
