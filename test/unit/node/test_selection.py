"""`when` in the runner: what does not fit is acknowledged without a call and counted, and nothing else is touched."""

import logging
from typing import Any

import pytest
from google.protobuf import any_pb2, wrappers_pb2

from runtime import wire
from runtime.message import Message, MessageType
from runtime.node import selection
from runtime.node.cancellations import Cancellations
from runtime.payload import encode_value, json_value
from runtime.spec import names
from runtime.spec.batching import BatchingSpec
from runtime.spec.node import JoinSpec, NodeSpec, StateSpec
from runtime.spec.selection import Conditions, JsonScalar
from test.support.node import ENTRYPOINT, NODE, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

OTHER = names.node_subject(STREAM, "other")
INPUTS = {"NATS_INPUTS": f"{ENTRYPOINT},{OTHER}"}
STATES, SETS = names.state_bucket(STREAM, NODE), names.join_bucket(STREAM, NODE)

ECHO = """
    calls = []

    async def handler(ctx, data):
        calls.append(ctx.request_id)
        await ctx.send_any(data)
"""


def selecting(*kinds: str, **changes: Any) -> NodeSpec:
    return node_spec(when={ENTRYPOINT: Conditions(headers={"kind": kinds})}, **changes)


def by_fields(fields: dict[str, tuple[JsonScalar, ...]], **more: Any) -> NodeSpec:
    return node_spec(when={ENTRYPOINT: Conditions(fields=fields, **more)})


def counts_of(node: NodeUnderTest) -> tuple[int, int, int]:
    totals = node.process.metrics.totals()
    return totals["taken"], totals["ok"], totals["left_out"]


async def test_what_does_not_fit_is_acked_without_a_call_and_counted(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(ECHO, spec=selecting("scan", "fax"))

    with caplog.at_level(logging.DEBUG):
        for number, kind in enumerate(("scan", "text", "fax", "Scan", ""), start=1):
            await node.send(number, request_id=f"r{number}", headers={"kind": kind})
        await node.send(6, request_id="r6")
        await node.settled()

    assert node.outputs() == [1, 3]
    assert counts_of(node) == (6, 6, 4)
    left_out = [record for record in caplog.records if getattr(record, "action", "") == "left_out"]
    assert [getattr(record, "request_id", "") for record in left_out] == ["r2", "r4", "r5", "r6"]


async def test_all_headers_have_to_fit(start_node: StartNode) -> None:
    conditions = Conditions(headers={"kind": ("scan",), "lang": ("de", "en")})
    node = await start_node(ECHO, spec=node_spec(when={ENTRYPOINT: conditions}))

    await node.send(1, headers={"kind": "scan", "lang": "en"})
    await node.send(2, headers={"kind": "scan", "lang": "fr"})
    await node.send(3, headers={"lang": "en"})
    await node.settled()

    assert node.outputs() == [1]


async def test_all_headers_and_fields_have_to_fit(start_node: StartNode, caplog: pytest.LogCaptureFixture) -> None:
    fields: dict[str, tuple[JsonScalar, ...]] = {"label": ("cat", "dog"), "meta.camera": ("gate-3",)}
    node = await start_node(ECHO, spec=by_fields(fields, headers={"kind": ("scan",)}))
    gate, other = {"camera": "gate-3"}, {"camera": "gate-4"}

    with caplog.at_level(logging.DEBUG):
        await node.send({"label": "cat", "meta": gate}, headers={"kind": "scan"})
        await node.send({"label": "dog", "meta": gate, "n": 1}, headers={"kind": "scan"})
        await node.send({"label": "dog", "meta": gate}, headers={"kind": "text"})
        await node.send({"label": "cow", "meta": gate}, headers={"kind": "scan"})
        await node.send({"label": "dog", "meta": other}, headers={"kind": "scan"})
        await node.settled()

    assert node.outputs() == [{"label": "cat", "meta": gate}, {"label": "dog", "meta": gate, "n": 1}]
    assert counts_of(node) == (5, 5, 3)
    told = [each.getMessage() for each in caplog.records if getattr(each, "action", "") == "left_out"]
    assert [text.partition(": ")[2] for text in told] == [
        "its header 'kind' does not fit", "its field 'label' does not fit", "its field 'meta.camera' does not fit"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [None, "cat", ["label"], {}, {"label": None}, {"Label": "cat"}, b"no JSON", b'["label"]', b'{"label": "ca', b""],
    ids=repr,
)
async def test_what_is_no_object_or_has_no_such_field_does_not_fit(start_node: StartNode, value: Any) -> None:
    node = await start_node(ECHO, spec=by_fields({"label": ("cat",)}))

    await node.send(value)
    await node.send({"label": "cat"})
    await node.settled()

    assert node.outputs() == [{"label": "cat"}]
    assert (counts_of(node), node.dead_letters()) == ((2, 2, 1), [])


async def test_a_payload_of_another_type_has_no_fields(start_node: StartNode) -> None:
    node = await start_node(ECHO, spec=by_fields({"value": ("cat",)}))
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.StringValue(value="cat"))

    for payload in (packed.SerializeToString(), b"", b"\xff"):
        await node.send_bytes(wire.encode(Message(request_id="r1", payload=payload)))
    await node.settled()

    assert (counts_of(node), node.dead_letters()) == ((3, 3, 3), [])


async def test_json_that_travels_as_bytes_is_looked_into(start_node: StartNode) -> None:
    node = await start_node(ECHO, spec=by_fields({"n": (1,)}))

    for text in (b'{"n": 1.0}', b'{"n": true}', b'{"n": "1"}'):
        await node.send(text)
    await node.settled()

    assert node.outputs() == [b'{"n": 1.0}']


@pytest.mark.parametrize(
    ("conditions", "reads"),
    [
        (Conditions(headers={"kind": ("scan",)}), 0),
        (Conditions(fields={"a": (1,), "b": (1,)}), 2),
        (Conditions(headers={"kind": ("scan",)}, fields={"a": (1,)}), 1),
    ],
    ids=["headers", "fields", "both"],
)
async def test_a_payload_is_read_once_and_only_for_fields(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, conditions: Conditions, reads: int
) -> None:
    read: list[bytes] = []

    def counted(packed: bytes) -> Any:
        read.append(packed)
        return json_value(packed)

    monkeypatch.setattr(selection, "json_value", counted)
    node = await start_node(ECHO, spec=node_spec(when={ENTRYPOINT: conditions}))

    for kind in ("scan", "text"):
        await node.send({"a": 1, "b": 1}, headers={"kind": kind})
    await node.settled()

    assert len(read) == reads


async def test_conditions_are_those_of_the_input_that_a_message_came_by(start_node: StartNode) -> None:
    node = await start_node(ECHO, spec=selecting("scan"), variables=INPUTS)

    text = wire.encode(Message(request_id="r1", payload=encode_value("other"), headers={"kind": "text"}))
    await node.send_bytes(text, subject=OTHER)
    await node.send_bytes(text)
    await node.settled()

    assert node.outputs() == ["other"]


async def test_a_payload_that_cannot_be_read_is_no_matter_of_a_node_that_leaves_it_out(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data: int): return data", spec=selecting("scan"))

    await node.send("no number", headers={"kind": "text"})
    await node.send("no number", headers={"kind": "scan"})
    await node.settled()

    assert node.the_dead_letter().sequence == 2


async def test_an_error_passes_for_its_caller_has_to_hear_of_it(start_node: StartNode) -> None:
    conditions = Conditions(headers={"kind": ("scan",)}, fields={"label": ("cat",)})
    node = await start_node(ECHO, spec=node_spec(when={ENTRYPOINT: conditions}, exit_channel="main"))

    await node.call(type=MessageType.ERROR, error="broken", from_node="clean")
    await node.settled()

    assert [reply.error for reply in node.replies] == ["broken"]
    assert counts_of(node) == (1, 1, 0)


async def test_the_caller_of_a_message_that_the_output_node_leaves_out_is_not_told_of_an_end(
    start_node: StartNode,
) -> None:
    node = await start_node(ECHO, spec=selecting("scan", exit_channel="main"))

    await node.call("a", headers={"kind": "text"})
    await node.settled()

    assert node.replies == []


async def test_what_is_redriven_is_handled(start_node: StartNode) -> None:
    node = await start_node(ECHO, spec=by_fields({"label": ("cat",)}, headers={"kind": ("scan",)}))

    data = wire.encode(Message(request_id="r1", payload=encode_value("a"), headers={"kind": "text"}))
    await node.send_bytes(data, {"Krt-Origin": "1", "Krt-Redrive": "1"})
    await node.settled()

    assert node.outputs() == ["a"]


async def test_what_is_left_out_changes_no_state(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: int):
            ctx.state["sum"] = ctx.state.get("sum", 0) + data
            return ctx.state["sum"]
        """,
        spec=selecting("scan", partitions=2, state=StateSpec(bucket=STATES)),
    )

    for number, kind in ((1, "scan"), (2, "text"), (4, "scan")):
        await node.send(number, request_id=f"r{number}", state_id="a", headers={"kind": kind})
    await node.settled()

    assert node.outputs() == [1, 5]


async def test_a_batch_has_none_of_what_is_left_out(start_node: StartNode) -> None:
    node = await start_node(
        """
        sizes = []

        async def handler(ctx, data: list[int]):
            sizes.append(len(data))
            return data
        """,
        spec=selecting("scan", batching=BatchingSpec(max_messages=2, wait_s=3600.0)),
    )

    for number, kind in ((1, "scan"), (2, "text"), (3, "scan")):
        await node.send(number, headers={"kind": kind})
    await node.settled()

    assert (node.module.sizes, node.outputs()) == ([2], [1, 3])


async def test_a_join_waits_for_parts_that_fit(start_node: StartNode) -> None:
    parts = {ENTRYPOINT: "left", OTHER: "right"}
    join = JoinSpec(bucket=SETS, parts=parts, key="request_id", timeout_s=5.0, partial=False)
    conditions = Conditions(headers={"kind": ("scan",)}, fields={"n": (2,)})
    node = await start_node(
        "async def handler(ctx, data): return data",
        spec=node_spec(when={ENTRYPOINT: conditions}, join=join),
        variables=INPUTS,
    )

    for kind, n in (("text", 2), ("scan", 1), ("scan", 2)):
        await node.send({"n": n}, headers={"kind": kind})
    await node.send_bytes(wire.encode(Message(request_id="r1", payload=encode_value(3))), subject=OTHER)
    await node.until(lambda: bool(node.outputs()))

    assert node.outputs() == [{"left": {"n": 2}, "right": 3}]
    assert counts_of(node)[2] == 2


async def test_nothing_is_prefetched_by_the_speed_of_leaving_out(start_node: StartNode) -> None:
    node = await start_node(ECHO, spec=selecting("scan"))

    await node.send(1, headers={"kind": "text"})
    await node.settled()

    assert node.process.metrics.prefetch(16) == 0


async def test_a_node_without_conditions_has_nothing_of_this(start_node: StartNode) -> None:
    node = await start_node(ECHO)

    assert isinstance(node.process._skips(), Cancellations)
    assert not node.process._skips()
