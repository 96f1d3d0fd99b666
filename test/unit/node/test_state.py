"""`ctx.state`: one message counts once, whatever becomes of its deliveries."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from runtime import wire
from runtime.bus.base import Confirm, KeyValue
from runtime.errors import BusUnavailableError, HandlerLoadError, WrongStreamError
from runtime.message import Message, MessageType
from runtime.node.state import StateEntry
from runtime.payload import decode_value, encode_value
from runtime.spec import names
from runtime.spec.node import NodeSpec, StateSpec
from test.support.node import ENTRYPOINT, NODE, OUTPUT, STREAM, NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode

BUCKET = names.state_bucket(STREAM, NODE)

COUNTER = """
    from dataclasses import dataclass

    @dataclass
    class State:
        count: int = 0

    calls = []

    async def handler(ctx, data: int):
        calls.append(data)
        ctx.state.count += data
        return ctx.state.count
"""


def stateful(**changes: Any) -> NodeSpec:
    return node_spec(**{"partitions": 2, "state": StateSpec(bucket=BUCKET), **changes})


async def bucket_of(node: NodeUnderTest) -> KeyValue:
    return await node.outside.key_value(BUCKET)


async def entry_of(node: NodeUnderTest, state_id: str = "") -> StateEntry:
    return StateEntry.decode((await (await bucket_of(node)).get(names.state_key(state_id))).value)


async def test_each_state_id_has_a_state_of_its_own_and_no_id_the_default_one(start_node: StartNode) -> None:
    node = await start_node(COUNTER, spec=stateful())

    for state_id in ("a", "b", "", "a"):
        await node.send(1, state_id=state_id)
    await node.settled()

    assert sorted(node.outputs()) == [1, 1, 1, 2]
    assert decode_value((await entry_of(node, "a")).payload) == {"count": 2}
    assert (await entry_of(node)).state_id == ""


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("async def handler(ctx, data: int):", id="a dict"),
        pytest.param(
            "from pydantic import BaseModel\nclass State(BaseModel):\n    count: int = 0\n"
            "    def __getitem__(self, key): return self.count\n"
            "    def __setitem__(self, key, value): self.count = value\n"
            "    def get(self, key, default): return self.count\n"
            "async def handler(ctx, data: int):",
            id="a pydantic model",
        ),
        pytest.param("def handler(ctx, data: int):", id="a dict in a thread"),
    ],
)
async def test_a_state_may_be(start_node: StartNode, source: str) -> None:
    body = "\n    ctx.state['count'] = ctx.state.get('count', 0) + data\n    return ctx.state['count']\n"
    node = await start_node(source + body, spec=stateful())

    for number in (1, 2, 3):
        await node.send(number)
    await node.settled()

    assert node.outputs() == [1, 3, 6]


async def test_the_class_is_found_by_its_name(start_node: StartNode) -> None:
    source = COUNTER.replace("class State", "class Seen")
    node = await start_node(source, spec=stateful(state=StateSpec(bucket=BUCKET, type="handler:Seen")))

    await node.send(5)
    await node.settled()

    assert node.outputs() == [5]


@pytest.mark.parametrize(
    ("source", "name", "found"),
    [
        ("class State:\n    def __init__(self, n): ...\n", "", "handler.py:State cannot be the class of a state"),
        ("", "handler:Missing", "handler:Missing cannot be .* has no attribute 'Missing'"),
        ("", "nowhere:State", "No module named 'nowhere'"),
        ("class State:\n    pass\n", "", "write a dataclass or a pydantic model whose fields all have a default"),
    ],
)
async def test_a_class_that_is_no_state_fails_the_start(
    start_node: StartNode, source: str, name: str, found: str
) -> None:
    source += "def init(ctx):\n    raise AssertionError('too late')\nasync def handler(ctx, data): ..."

    with pytest.raises(HandlerLoadError, match=found):
        await start_node(source, spec=stateful(state=StateSpec(bucket=BUCKET, type=name)))


async def test_a_handler_that_raises_leaves_the_state_and_a_retry_begins_with_it_anew(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: int):
            ctx.state["sum"] = ctx.state.get("sum", 0) + data
            await ctx.send_output(ctx.state["sum"])
            if data == 2 and ctx.attempt == 1:
                raise ValueError("not yet")
        """,
        spec=stateful(),
    )

    await node.send(1)
    await node.send(2)
    await node.until(lambda: node.outputs() == [1])
    await node.clock.advance(2.0)
    await node.settled()

    assert node.outputs() == [1, 3]
    assert node.stored()[1].subject == OUTPUT


@pytest.mark.parametrize("outcome", ["Drop()", "Reject('no')"])
@pytest.mark.parametrize("word", ["raise", "return"])
async def test_an_outcome_leaves_the_state_and_holds_outputs_back(
    start_node: StartNode, word: str, outcome: str
) -> None:
    node = await start_node(
        f"""
        from runtime.errors import Drop, Reject

        async def handler(ctx, data: int):
            ctx.state["count"] = ctx.state.get("count", 0) + 1
            await ctx.send_output(ctx.state["count"])
            if data:
                {word} {outcome}
        """,
        spec=stateful(),
    )

    await node.send(1)
    await node.send(0)
    await node.settled()

    assert node.outputs() == [1]


async def test_a_redelivery_publishes_what_is_kept_and_does_not_call_the_handler(start_node: StartNode) -> None:
    node = await start_node(COUNTER, spec=stateful())
    sequence = await node.send(1)
    await node.settled()
    entry = await entry_of(node)

    # As after a crash before the ack: the consumer does not know that the message is done.
    [config] = [config for config in node.process._consumers() if config.durable.startswith("work_p0")]
    node.broker.delete_consumer(STREAM, config.durable)
    await node.outside.ensure_consumer(config)
    await node.clock.advance(1.0)
    await node.settled()

    assert node.module.calls == [1]
    assert node.outputs() == [1]
    assert await entry_of(node) == entry
    assert (entry.sequence, [decode_value(each.payload) for each in entry.outputs]) == (sequence, [1])


async def test_messages_that_come_again_after_a_later_one_are_known(start_node: StartNode) -> None:
    node = await start_node(COUNTER, spec=stateful())
    for number in (1, 2, 3):
        await node.send(number)
    await node.settled()

    [config] = [config for config in node.process._consumers() if config.durable.startswith("work_p0")]
    node.broker.delete_consumer(STREAM, config.durable)
    await node.outside.ensure_consumer(config)
    await node.clock.advance(1.0)
    await node.settled()

    assert node.module.calls == [1, 2, 3]
    assert node.outputs() == [1, 3, 6]


async def test_a_replica_that_lost_its_message_leaves_nothing_behind(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        entered, go_on = asyncio.Event(), asyncio.Event()

        async def handler(ctx, data: int):
            entered.set()
            await go_on.wait()
            ctx.state["by"] = "the slow one"
            return ctx.state["by"]
        """,
        spec=stateful(),
    )
    await node.send(1)
    await node.until(lambda: bool(node.module.entered.is_set()))

    # Meanwhile another replica handles the same message.
    fast = StateEntry(
        state_id="",
        payload=b"",
        request_id="r1",
        origin=1,
        subject="s",
        sequence=1,
        stored_ns=node.clock.time_ns(),
        first_number=0,
        outputs=(),
    )
    await (await bucket_of(node)).put(names.state_key(""), fast.encode())
    node.module.go_on.set()
    await node.released()
    await node.clock.advance(1.5)
    await node.settled()

    assert node.outputs() == []
    assert await entry_of(node) == fast
    assert node.dead_letters() == []


async def test_an_outage_while_the_state_is_kept_is_no_failure_of_the_handler(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(COUNTER, spec=stateful(retry=node_spec().retry.model_copy(update={"attempts": 1})))
    bucket = node.process._runner._gate._bucket  # type: ignore[union-attr]  # it has been started
    create, tries = bucket.create, 0

    async def stored_but_not_answered(key: str, value: bytes) -> int:
        nonlocal tries
        tries += 1
        await create(key, value)
        raise BusUnavailableError("no answer")

    monkeypatch.setattr(bucket, "create", stored_but_not_answered)
    await node.send(1)
    await node.released()
    await node.clock.advance(1.5)
    await node.settled()

    assert (tries, node.module.calls, node.outputs()) == (1, [1], [1])


async def test_outputs_of_a_generator_and_of_channels_keep_their_order_and_ids(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data: int):
            ctx.state["seen"] = True
            yield 1
            await ctx.send_output(2, "side")
            yield 3
        """,
        spec=stateful(),
    )

    sequence = await node.send(0)
    await node.settled()

    assert (node.outputs(), node.outputs("side")) == ([1, 3], [2])
    ids = [stored.headers["Nats-Msg-Id"] for stored in [*node.stored(), *node.stored(f"{OUTPUT}.side")]]
    assert ids == [f"{NODE}.{sequence}.{number}" for number in (0, 2, 1)]


async def test_an_early_reply_does_not_wait_for_the_state(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        go_on = asyncio.Event()

        async def handler(ctx, data: int):
            await ctx.send_early_reply("soon")
            await go_on.wait()
            return "done"
        """,
        spec=stateful(exit_channel="main"),
    )

    await node.call(1)
    await node.until(lambda: len(node.replies) == 1)
    assert node.replies[0].type is MessageType.EARLY_REPLY
    node.module.go_on.set()
    await node.settled()

    assert [decode_value(reply.payload) for reply in node.replies] == ["soon", "done"]
    assert (await entry_of(node)).first_number == 1


async def test_a_state_that_is_too_large_is_a_dead_letter_that_says_so(start_node: StartNode) -> None:
    node = await start_node(
        """
        import random

        async def handler(ctx, data: int):
            ctx.state["noise"] = random.randbytes(data).hex()
        """,
        spec=stateful(),
        max_payload_bytes=16 * 1024,
    )

    await node.send(30_000)
    await node.send(10)
    await node.settled()

    letter = node.the_dead_letter()
    assert letter.reason == "too-large"
    assert "the state of '' and the outputs of its message have" in letter.error
    assert (await entry_of(node)).sequence == 2


async def test_a_large_state_is_packed(start_node: StartNode) -> None:
    node = await start_node(
        "async def handler(ctx, data: int):\n    ctx.state[str(data)] = 'x' * 30_000\n    return len(ctx.state)\n",
        spec=stateful(),
        max_payload_bytes=16 * 1024,
    )

    await node.send(1)
    await node.send(2)
    await node.settled()

    assert node.outputs() == [1, 2]


async def test_what_has_no_form_in_json_is_a_dead_letter_with_its_path(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data: int):\n    ctx.state['seen'] = {1, 2}\n", spec=stateful())

    await node.send(1)
    await node.settled()

    assert node.the_dead_letter().reason == "encode"
    assert "set at seen has no form in JSON" in node.the_dead_letter().error


async def test_a_kept_state_that_does_not_fit_the_class_any_more_is_told(start_node: StartNode) -> None:
    node = await start_node(COUNTER, spec=stateful())
    await node.send(1, state_id="a")
    await node.settled()
    entry = await entry_of(node, "a")

    broken = replace(entry, payload=encode_value({"count": "many"}))
    await (await bucket_of(node)).put(names.state_key("a"), broken.encode())
    await node.send(1, state_id="a")
    await node.settled()

    assert node.the_dead_letter().reason == "state"
    assert "the state of 'a' cannot be read" in node.the_dead_letter().error


async def test_a_handler_that_ran_out_of_time_leaves_the_state(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        async def handler(ctx, data: int):
            ctx.state["count"] = ctx.state.get("count", 0) + 1
            if ctx.attempt == 1:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
            return ctx.state["count"]
        """,
        spec=stateful(timeout_s=1.0),
    )

    await node.send(1)
    await node.until(lambda: node.in_hand == 1)
    await node.clock.advance(1.1)
    await node.released()
    await node.clock.advance(2.0)
    await node.settled()

    assert node.outputs() == [1]


async def test_an_error_passes_a_node_with_state_without_one(start_node: StartNode) -> None:
    node = await start_node(COUNTER, spec=stateful())

    await node.send(1, type=MessageType.ERROR, error="boom", payload=b"")
    await node.settled()

    assert [message.error for message in node.errors()] == ["boom"]
    assert await (await bucket_of(node)).keys() == []


async def test_an_entry_survives_its_form() -> None:
    entry = StateEntry(
        state_id="Kamera ü",
        payload=b"\x00",
        request_id="r1",
        origin=1,
        subject="a.b",
        sequence=7,
        stored_ns=8,
        first_number=1,
        outputs=(),
    )

    assert StateEntry.decode(entry.encode()) == entry


async def test_partitions_work_at_once_and_ids_of_one_partition_one_by_one(start_node: StartNode) -> None:
    node = await start_node(
        """
        import asyncio

        running, most, go_on = set(), [], asyncio.Event()

        async def handler(ctx, data: str):
            running.add(data)
            most.append(sorted(running))
            await go_on.wait()
            running.discard(data)
        """,
        spec=node_spec(partitions=2, concurrency=16),
    )
    both = {names.partition(state_id, 2): state_id for state_id in ("a", "b", "c", "d")}
    assert sorted(both) == [0, 1]

    for _ in range(2):
        for state_id in both.values():
            await node.send(state_id, state_id=state_id)
    await node.until(lambda: len(node.module.running) == 2)
    await asyncio.sleep(0)
    assert len(node.module.most) == 2
    node.module.go_on.set()
    await node.settled()

    assert len(node.module.most) == 4


async def test_a_message_whose_outputs_were_refused_does_not_count_again_when_it_is_redriven(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(COUNTER, spec=stateful())
    publish = node.process._publisher.publish

    async def refuse(subject: str, payload: bytes, *, message_id: str, confirm: Confirm) -> None:
        if message_id == f"{NODE}.1.0":
            confirm(WrongStreamError("of another stream"))
        else:
            await publish(subject, payload, message_id=message_id, confirm=confirm)

    monkeypatch.setattr(node.process._version.outputs._publisher, "publish", refuse)
    sequence = await node.send(1)
    await node.settled()
    assert (node.outputs(), node.the_dead_letter().reason) == ([], "refused")

    message = Message(request_id="r1", payload=encode_value(1), from_node="entrypoint")
    headers = {names.ORIGIN_HEADER: str(sequence), names.REDRIVE_HEADER: "1"}
    await node.send_bytes(wire.encode(message), headers, subject=names.partition_subject(ENTRYPOINT, 0))
    await node.settled()

    assert (node.module.calls, node.outputs()) == ([1], [1])


async def test_an_ordered_node_sends_its_next_output_once_the_one_before_is_stored(start_node: StartNode) -> None:
    node = await start_node(
        """
        sent = []

        async def handler(ctx, data: int):
            for number in range(3):
                await ctx.send_output(number)
                sent.append(number)
        """,
        spec=node_spec(partitions=1),
    )

    await node.send(0)
    node.broker.fail_publishes(1)  # the first output
    await node.until(lambda: node.in_hand == 1)
    assert node.module.sent == []
    await node.clock.advance(1.0)
    await node.settled()

    assert node.module.sent == node.outputs() == [0, 1, 2]
