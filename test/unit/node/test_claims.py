"""Large payloads on the message path of one node, on the bus in memory."""

import random
from typing import Any

import pytest

from runtime.bus.base import Confirmation
from runtime.bus.claims import Claims
from runtime.bus.object_store import ObjectStoreConfig
from runtime.message import Claim, Message
from runtime.payload import decode_value, encode_value
from runtime.spec.claims import ClaimsSpec, claim_object, claims_store, letter_claims_store
from runtime.spec.node import JoinSpec, NodeSpec, StateSpec
from runtime.spec.selection import Conditions
from runtime.wire import decode, encode
from test.support.node import ENTRYPOINT, OUTPUT, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

TURN = """
    async def handler(ctx, data: bytes):
        return data[1:] + data[:1]
"""
STORE = claims_store(STREAM)
# Larger than the server of these tests takes.
PAYLOAD = random.Random(0).randbytes(20_000)
LIMIT_BYTES = 10_000


def spec(**changes: Any) -> NodeSpec:
    return node_spec(claims=ClaimsSpec(store=STORE, room_bytes=1_000_000), **changes)


async def started(start_node: StartNode, source: str, node: NodeSpec, **options: Any) -> NodeUnderTest:
    under_test = await start_node(source, spec=node, max_payload_bytes=LIMIT_BYTES, **options)
    for store in (STORE, letter_claims_store(STREAM)):
        await under_test.outside.ensure_object_store(ObjectStoreConfig(name=store))
    return under_test


async def send_large(
    node: NodeUnderTest, subject: str = ENTRYPOINT, *, value: Any = PAYLOAD, message_id: str = "in", **fields: Any
) -> None:
    """Store a request whose payload lies in the object store."""
    claims = Claims(node.outside, STORE, node.clock, room_bytes=1_000_000, max_bytes=1_000_000)
    message = Message(request_id="r1", payload=encode_value(value), from_node="entrypoint", **fields)
    data = await claims.fit(encode(message), LIMIT_BYTES, lambda digest: claim_object(subject, message_id, digest))
    publisher = node.outside.publisher(STREAM)
    stored = Confirmation()
    await publisher.publish(subject, data, message_id=message_id, confirm=stored)
    await stored


async def large_outputs(node: NodeUnderTest) -> list[Any]:
    """Return the outputs of the node, which lie in the object store."""
    store = await node.outside.object_store(STORE)
    scan = await node.outside.scan(STREAM, subjects=[OUTPUT])
    messages = [decode(stored.data, takes_claims=True) for stored in await scan.read()]
    return [decode_value(await store.get(message.claim.object)) for message in messages if message.claim]


async def test_a_large_payload_comes_and_goes(start_node: StartNode) -> None:
    node = await started(start_node, TURN, spec())

    await send_large(node)
    await node.settled()

    assert await large_outputs(node) == [PAYLOAD[1:] + PAYLOAD[:1]]


async def test_an_ordered_node_sends_large_outputs_in_their_order(start_node: StartNode) -> None:
    handler = """
        async def handler(ctx, data: bytes):
            await ctx.send_output(data)
            await ctx.send_output(data[::-1])
    """
    node = await started(start_node, handler, spec(partitions=1))

    await send_large(node)
    await node.settled()

    assert await large_outputs(node) == [PAYLOAD, PAYLOAD[::-1]]


async def test_an_atomic_node_sends_large_outputs_together(start_node: StartNode) -> None:
    handler = """
        async def handler(ctx, data: bytes):
            return [data, data[::-1]]
    """
    node = await started(start_node, handler, spec(atomic=True))

    await send_large(node)
    await node.settled()

    assert await large_outputs(node) == [PAYLOAD, PAYLOAD[::-1]]


async def test_a_caller_gets_an_answer_that_says_where_it_lies(start_node: StartNode) -> None:
    node = await started(start_node, TURN, spec(exit_channel="main"))

    await send_large(node, reply_to="told")
    answers: list[Message] = []
    await node.outside.subscribe("told", lambda told: answers.append(decode(told.data, takes_claims=True)))
    await node.settled()

    [answer] = answers
    assert answer.claim is not None and answer.claim.object.startswith(f"answer/{OUTPUT}/")
    assert (answer.payload, answer.outcome) == (b"", "ok")


async def test_a_state_that_takes_a_large_message_is_kept(start_node: StartNode) -> None:
    handler = """
        async def handler(ctx, data: bytes):
            ctx.state["seen"] = len(data)
            return ctx.state["seen"]
    """
    node = await started(start_node, handler, spec(partitions=1, state=StateSpec(bucket=f"state_{STREAM}_work")))

    await send_large(node)
    await node.settled()

    assert node.outputs() == [len(PAYLOAD)]


async def test_a_join_names_the_size_of_a_part_that_it_cannot_keep(start_node: StartNode) -> None:
    handler = """
        async def handler(ctx, data):
            return 1
    """
    join = JoinSpec(
        bucket=f"join_{STREAM}_work", parts={ENTRYPOINT: "scan"}, key="request_id", timeout_s=60, partial=False
    )
    node = await started(start_node, handler, spec(join=join))

    await send_large(node)
    await node.settled()

    [(_, letter)] = node.dead_letters()
    assert letter.reason == "too-large"
    assert f"a part has {len(encode_value(PAYLOAD)):,} bytes" in letter.error


async def test_fields_are_looked_for_in_what_is_fetched_once_and_only_if_the_headers_fit(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    fetch = Claims.fetch

    async def counted(claims: Claims, claim: Claim) -> bytes:
        fetched.append(claim.object.rpartition("/")[2])
        return await fetch(claims, claim)

    monkeypatch.setattr(Claims, "fetch", counted)
    conditions = Conditions(headers={"kind": ("scan",)}, fields={"label": ("cat",)})
    handler = "async def handler(ctx, data: dict):\n    return data['label']\n"
    node = await started(start_node, handler, spec(when={ENTRYPOINT: conditions}))

    for number, (kind, label) in enumerate((("scan", "cat"), ("scan", "dog"), ("text", "cat"))):
        value = {"label": label, "page": PAYLOAD.hex()}
        await send_large(node, value=value, message_id=f"in{number}", headers={"kind": kind})
    await node.settled()

    assert node.outputs() == ["cat"]
    assert (sorted(fetched), node.dead_letters()) == (["in0", "in1"], [])
    assert node.process.metrics.totals()["left_out"] == 2


async def test_a_node_among_kres_programs_takes_no_claim(start_node: StartNode) -> None:
    node = await started(start_node, TURN, node_spec())

    await send_large(node)
    await node.settled()

    [(_, letter)] = node.dead_letters()
    assert letter.reason == "claim"
    assert "in an object store" in letter.error


async def test_a_larger_payload_than_the_process_takes_is_a_dead_letter(start_node: StartNode) -> None:
    node = await started(start_node, TURN, spec(), variables={"MAX_CLAIM_BYTES": "15000"})

    await send_large(node)
    await node.settled()

    [(_, letter)] = node.dead_letters()
    assert letter.reason == "claim"
    assert "KRT_MAX_CLAIM_BYTES" in letter.error
