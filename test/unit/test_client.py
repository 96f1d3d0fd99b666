"""The workflow client on the in-memory bus: every answer reaches its own request, and nothing is left behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from google.protobuf import any_pb2, timestamp_pb2

from runtime import payload, wire
from runtime.bus.base import CoreMessage
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.memory_publisher import MemoryPublisher
from runtime.client import Reply, Route, Workflow
from runtime.clock import FakeClock, settle
from runtime.errors import BusClosedError, EncodeError, MessageTooLargeError, PredictionError
from runtime.message import Message, MessageType
from runtime.spec import names
from runtime.spec.node import Partitions
from test.support.answering_node import NODE, AnsweringNode, stream_config

STREAM = "test_v1_hello"


@pytest.fixture
async def broker(clock: FakeClock) -> MemoryBroker:
    broker = MemoryBroker(clock)
    await broker.connect().ensure_stream(stream_config(STREAM))
    return broker


@pytest.fixture
async def client(broker: MemoryBroker, clock: FakeClock) -> AsyncIterator[Workflow]:
    async with Workflow(broker.connect(), STREAM, clock=clock) as client:
        yield client


@pytest.fixture
async def node(broker: MemoryBroker) -> AsyncIterator[AnsweringNode]:
    async with AnsweringNode(broker.connect(), STREAM) as node:
        yield node


@pytest.fixture
async def cancelled(broker: MemoryBroker) -> list[str]:
    """Return the ids of the requests that nodes are told are cancelled."""
    told: list[str] = []
    await broker.connect().subscribe(names.cancel_subject(STREAM), lambda message: told.append(message.data.decode()))
    return told


async def outcome_of(future: "asyncio.Future[object]") -> tuple[str, str]:
    """Return outcome and detail of a request that has to fail."""
    with pytest.raises(PredictionError) as caught:
        await future
    return caught.value.outcome, caught.value.detail


async def stored_messages(bus: MemoryBus) -> list[Message]:
    last = (await bus.stream_state(STREAM)).last_sequence
    return [wire.decode((await bus.get_message(STREAM, number)).data) for number in range(1, last + 1)]


# --- answers ---


async def test_the_answer_is_the_value_that_the_workflow_returns(client: Workflow, node: AnsweringNode) -> None:
    assert await client.predict({"name": "Ada", "ages": [36, 1.5, None]}) == {"name": "Ada", "ages": [36, 1.5, None]}
    assert await client.predict(b"\x00\xff") == b"\x00\xff"


async def test_a_protobuf_answer_stays_an_any(client: Workflow, node: AnsweringNode) -> None:
    value = await client.predict(timestamp_pb2.Timestamp(seconds=5))

    unpacked = timestamp_pb2.Timestamp()
    assert isinstance(value, any_pb2.Any)
    assert value.Unpack(unpacked) and unpacked.seconds == 5


async def test_the_request_carries_all_that_the_nodes_need(client: Workflow, node: AnsweringNode) -> None:
    await client.predict("x", state_id="cam-1", timeout_s=2.5, request_id="r1", headers={"method": "Greet"})

    [request] = node.received
    assert request.from_node == "entrypoint"
    assert request.type is MessageType.OK
    assert (request.request_id, request.state_id) == ("r1", "cam-1")
    assert request.headers == {"method": "Greet"}
    assert request.deadline_ms == FakeClock().time_ns() // 1_000_000 + 2_500


async def test_each_of_many_requests_in_flight_gets_its_own_answer(client: Workflow, node: AnsweringNode) -> None:
    futures = [client.predict(number) for number in range(2_000)]

    assert client.in_flight == 2_000
    assert await asyncio.gather(*futures) == list(range(2_000))
    assert (client.in_flight, client.late_answers, len(node.received)) == (0, 0, 2_000)


async def test_an_error_reaches_its_own_request_only(client: Workflow, node: AnsweringNode) -> None:
    before, failing, after = client.predict(1), client.predict({"error": "no such city"}), client.predict(2)

    with pytest.raises(PredictionError, match="no such city") as caught:
        await failing
    assert (caught.value.outcome, caught.value.node) == ("failed", NODE)
    assert caught.value.request_id == node.received[1].request_id
    assert (await before, await after) == (1, 2)


async def test_an_answer_that_only_closes_the_reply_is_none(client: Workflow, node: AnsweringNode) -> None:
    assert await client.predict({"nothing": True}) is None


async def test_an_early_reply_is_the_answer_and_what_comes_later_is_counted(
    client: Workflow, node: AnsweringNode
) -> None:
    assert await client.predict({"early": "soon"}) == "soon"

    await settle()
    assert client.late_answers == 2


async def test_all_answers_are_yielded_until_the_one_with_the_outcome(client: Workflow, node: AnsweringNode) -> None:
    early = [reply async for reply in client.predict_all({"early": "soon"})]
    twice = [reply.outcome async for reply in client.predict_all({"twice": True})]

    assert [(reply.value, reply.type) for reply in early] == [
        ("soon", MessageType.EARLY_REPLY),
        ({"early": "soon"}, MessageType.OK),
    ]
    assert early[0] == Reply(
        value="soon", type=MessageType.EARLY_REPLY, from_node=NODE, outcome="", headers=early[0].headers
    )
    assert twice == ["", "ok"]
    assert client.late_answers == 0


async def test_an_error_ends_the_iteration_over_all_answers(client: Workflow, node: AnsweringNode) -> None:
    with pytest.raises(PredictionError, match="broken"):
        await anext(client.predict_all({"error": "broken"}))

    assert client.in_flight == 0


async def test_leaving_the_iteration_leaves_no_request_behind(client: Workflow, node: AnsweringNode) -> None:
    async def wait_for_an_answer() -> None:
        await anext(client.predict_all({"silent": True}))

    waiting = asyncio.create_task(wait_for_an_answer())
    await settle()
    assert client.in_flight == 1

    waiting.cancel()
    await asyncio.wait([waiting])

    assert client.in_flight == 0


@pytest.mark.parametrize(("comes_again", "told"), [(False, ["r1"]), (True, [])])
async def test_leaving_the_iteration_cancels_the_request_unless_it_comes_again(
    client: Workflow, node: AnsweringNode, cancelled: list[str], comes_again: bool, told: list[str]
) -> None:
    replies = client.predict_all({"silent": True}, request_id="r1", comes_again=comes_again)
    waiting = asyncio.ensure_future(anext(replies))
    await settle()

    waiting.cancel()
    await asyncio.wait([waiting])
    await settle()

    assert (client.in_flight, cancelled) == (0, told)


async def test_an_answer_with_an_unreadable_payload_fails_its_request(client: Workflow, broker: MemoryBroker) -> None:
    future = client.predict(1, request_id="r1")
    await settle()

    answer(broker, await stored_messages(broker.connect()), content=b"\xff\xff")

    outcome, detail = await outcome_of(future)
    assert outcome == "failed"
    assert detail.startswith("the answer cannot be read: ")


async def test_bytes_that_are_no_envelope_are_logged_and_harm_nobody(
    client: Workflow, broker: MemoryBroker, node: AnsweringNode, caplog: pytest.LogCaptureFixture
) -> None:
    await client.predict(1)

    broker.send(CoreMessage(node.received[0].reply_to, b"\xff\xff", "", {}))
    await settle()

    assert [record.__dict__["action"] for record in caplog.records] == ["unreadable"]
    assert await client.predict(2) == 2


def answer(broker: MemoryBroker, requests: list[Message], *, content: bytes) -> None:
    for request in requests:
        broker.send(CoreMessage(request.reply_to, wire.encode(request._replace(payload=content)), "", {}))


# --- ends without an answer ---


async def test_a_request_without_an_answer_times_out_at_its_deadline(
    client: Workflow, node: AnsweringNode, clock: FakeClock
) -> None:
    future = client.predict({"silent": True}, timeout_s=3.0)

    await clock.advance(2.9)
    assert not future.done()
    await clock.advance(0.1)

    assert await outcome_of(future) == ("timeout", "no answer within 3 s")
    assert client.in_flight == 0


async def test_an_answer_after_the_timeout_is_counted_and_dropped(
    client: Workflow, broker: MemoryBroker, clock: FakeClock
) -> None:
    future = client.predict(1, timeout_s=1.0)
    await settle()
    await clock.advance(1.0)
    assert (await outcome_of(future))[0] == "timeout"

    answer(broker, await stored_messages(broker.connect()), content=b"")
    await settle()

    assert client.late_answers == 1


async def test_a_timeout_says_when_the_request_may_not_be_stored(
    client: Workflow, broker: MemoryBroker, clock: FakeClock
) -> None:
    broker.pause()
    future = client.predict(1, timeout_s=1.0)

    await clock.advance(1.0)

    outcome, detail = await outcome_of(future)
    assert outcome == "timeout"
    assert "it is not known to be stored" in detail


async def test_a_full_stream_is_unavailable(clock: FakeClock) -> None:
    broker = MemoryBroker(clock)
    await broker.connect().ensure_stream(stream_config(STREAM, max_bytes=100))

    async with Workflow(broker.connect(), STREAM, clock=clock, give_up_s=2.0) as client:
        future = client.predict("x" * 100)
        await settle()
        await clock.advance(3.0)

        outcome, detail = await outcome_of(future)
        assert (outcome, "full" in detail) == ("unavailable", True)


async def test_a_server_that_does_not_answer_is_unavailable(clock: FakeClock, broker: MemoryBroker) -> None:
    async with Workflow(broker.connect(), STREAM, clock=clock, give_up_s=2.0) as client:
        broker.pause()
        future = client.predict(1)
        await settle()
        await clock.advance(3.0)

        assert (await outcome_of(future))[0] == "unavailable"


async def test_a_cancelled_request_leaves_no_entry_and_its_answer_is_dropped(
    client: Workflow, broker: MemoryBroker
) -> None:
    future = client.predict(1)
    await settle()

    future.cancel()
    await settle()
    answer(broker, await stored_messages(broker.connect()), content=b"")
    await settle()

    assert (client.in_flight, client.late_answers) == (0, 1)


async def test_the_nodes_are_told_once_of_a_request_that_was_sent_and_is_cancelled(
    client: Workflow, cancelled: list[str]
) -> None:
    future = client.predict(1, request_id="r1")
    await settle()

    future.cancel()
    future.cancel()
    await settle()

    assert cancelled == ["r1"]


async def test_nothing_is_told_of_a_request_that_waits_for_the_one_before_it(
    client: Workflow, broker: MemoryBroker, cancelled: list[str]
) -> None:
    broker.fail_publishes(1)
    first = client.predict(1, state_id="a", request_id="r1")
    behind = client.predict(2, state_id="a", request_id="r2")
    await settle()

    behind.cancel()
    first.cancel()
    await settle()

    assert cancelled == ["r1"]


async def test_nothing_is_told_of_a_request_that_has_ended(
    client: Workflow, node: AnsweringNode, clock: FakeClock, cancelled: list[str]
) -> None:
    answered = client.predict(2, request_id="answered")
    await answered
    answered.cancel()
    late = client.predict({"silent": True}, request_id="late", timeout_s=1.0)
    await settle()
    await clock.advance(1.0)
    assert (await outcome_of(late))[0] == "timeout"
    open_still = client.predict({"silent": True}, request_id="open still")
    await settle()
    await client.close()
    assert (await outcome_of(open_still))[0] == "unavailable"

    assert cancelled == []
    assert [message.request_id for message in node.received] == ["answered", "late", "open still"]


async def test_the_nodes_of_others_are_told_nothing(broker: MemoryBroker, cancelled: list[str]) -> None:
    route = Route(subject=f"{STREAM}.in", answers=f"{STREAM}.out", encode=wire.encode, decode=wire.decode)
    async with Workflow(broker.connect(), STREAM, route=route) as client:
        future = client.predict(1)
        await settle()

        future.cancel()
        await settle()

    assert cancelled == []


async def test_closing_fails_what_is_in_flight(broker: MemoryBroker, clock: FakeClock) -> None:
    client = Workflow(broker.connect(), STREAM, clock=clock)
    await client.start()
    future = client.predict(1)

    await client.close()
    await client.close()

    assert await outcome_of(future) == ("unavailable", "the client was closed before the answer came")
    with pytest.raises(BusClosedError, match="not open"):
        client.predict(2)


async def test_a_client_that_cannot_send_any_more_fails_all_and_takes_nothing_new(
    client: Workflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(MemoryPublisher, "publish", broken)
    first, second = client.predict(1), client.predict(2)

    assert await outcome_of(first) == ("unavailable", "the client broke: RuntimeError('a fault of ours')")
    assert (await outcome_of(second))[0] == "unavailable"
    assert [record.__dict__["action"] for record in caplog.records] == ["give-up"]
    with pytest.raises(BusClosedError):
        client.predict(3)


# --- refused at once ---


async def test_what_cannot_be_sent_is_refused_and_leaves_nothing_behind(client: Workflow) -> None:
    with pytest.raises(EncodeError):
        client.predict({"x": float("nan")})
    with pytest.raises(MessageTooLargeError):
        client.predict(random.Random(1).randbytes(1_100_000))
    with pytest.raises(ValueError, match="above 0"):
        client.predict(1, timeout_s=0)
    with pytest.raises(ValueError, match="printable"):
        client.predict(1, request_id="a\r\nb")

    assert client.in_flight == 0


async def test_a_request_id_that_makes_the_headers_too_large_is_refused(client: Workflow) -> None:
    almost_full = random.Random(1).randbytes(1024 * 1024 - 9_000)

    future = client.predict(almost_full, request_id="x" * 5_000)  # once in the envelope, once in the header

    assert (await outcome_of(future))[0] == "too-large"


async def test_a_request_id_that_is_in_flight_is_refused(client: Workflow) -> None:
    first = client.predict(1, request_id="r1")

    with pytest.raises(ValueError, match="r1 is in flight"):
        client.predict(2, request_id="r1")

    assert client.in_flight == 1
    first.cancel()


# --- order ---


async def test_requests_of_one_state_id_are_stored_in_order_though_the_first_is_retried(
    client: Workflow, node: AnsweringNode, broker: MemoryBroker, clock: FakeClock
) -> None:
    broker.fail_publishes(1)
    futures = [client.predict(number, state_id="cam-1") for number in range(5)]
    await settle()

    await clock.advance(1.0)

    assert await asyncio.gather(*futures) == list(range(5))
    assert [message.state_id for message in node.received] == ["cam-1"] * 5
    assert [wire_value(message) for message in node.received] == list(range(5))


async def test_a_cancelled_request_does_not_hold_up_those_behind_it(client: Workflow, node: AnsweringNode) -> None:
    first, second, third = [client.predict(number, state_id="cam-1") for number in range(3)]

    second.cancel()

    assert (await first, await third) == (0, 2)
    assert len(node.received) == 2


def wire_value(message: Message) -> object:
    return payload.decode_value(message.payload)


async def test_the_request_goes_to_the_entrypoint_under_its_id(client: Workflow, broker: MemoryBroker) -> None:
    future = client.predict(1, request_id="r1")
    await settle()

    stored = await broker.connect().get_message(STREAM, 1)
    assert stored.subject == names.entrypoint_subject(STREAM)
    assert stored.headers[names.MESSAGE_ID_HEADER] == "r1"
    future.cancel()


@pytest.mark.parametrize("spread", [False, True])
async def test_requests_go_to_the_partitions_that_the_stream_tells_of(clock: FakeClock, spread: bool) -> None:
    broker = MemoryBroker(clock)
    bus, partitions = broker.connect(), Partitions(count=8, spread=spread)
    config = replace(stream_config(STREAM), metadata={names.ENTRYPOINT_METADATA: partitions.model_dump_json()})
    await bus.ensure_stream(config)

    async with Workflow(broker.connect(), STREAM, clock=clock) as client:
        for state_id in ("cam-2", "cam-2", ""):
            client.predict(1, state_id=state_id, request_id=f"r{state_id}{client.in_flight}")
            await settle()
        subjects = [(await bus.get_message(STREAM, number)).subject for number in (1, 2, 3)]

    entry = f"{STREAM}.entrypoint.main"
    ours = f"{entry}.p{names.partition('cam-2', 8)}"
    assert subjects == [ours, ours, f"{entry}.p{names.partition('r2', 8) if spread else 0}"]


async def test_a_stream_that_is_not_there_yet_has_no_partitions(clock: FakeClock) -> None:
    broker = MemoryBroker(clock)

    async with Workflow(broker.connect(), STREAM, clock=clock) as client:
        bus = broker.connect()
        await bus.ensure_stream(stream_config(STREAM))
        client.predict(1, state_id="cam-2")
        await settle()

        assert (await bus.get_message(STREAM, 1)).subject == f"{STREAM}.entrypoint"
