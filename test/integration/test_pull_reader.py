"""The pull loop against a real nats-server: what passes must not end a reader."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.bus import pull
from runtime.bus.base import Confirmation, ConsumerConfig, Delivery, ReaderClosed, StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.pull import NatsReader, PullState
from runtime.errors import BusError, BusUnavailableError
from test.support.actions import actions
from test.support.waiting import until

STREAM = "orders"
CONSUMER = ConsumerConfig(stream=STREAM, durable="packer", filter_subjects=("orders.new",), ack_wait_s=2.0)
PATIENCE_S = 10.0


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="test", request_timeout_s=1.0)
    await bus.ensure_stream(StreamConfig(name=STREAM, subjects=("orders.>",)))
    await bus.ensure_consumer(CONSUMER)
    yield bus
    await bus.close()


@pytest.fixture
async def reader(bus: NatsBus) -> AsyncIterator[NatsReader]:
    reader = bus.reader(CONSUMER, create=False)
    await reader.start()
    yield reader
    await reader.close()


async def store(bus: NatsBus, count: int, first: int = 0, *, size_bytes: int = 0) -> None:
    publisher = bus.publisher(STREAM)
    confirms = []
    for number in range(first, first + count):
        confirm = Confirmation()
        data = (b"%d" % number).ljust(size_bytes)
        await publisher.publish("orders.new", data, message_id=f"m{number}", confirm=confirm)
        confirms.append(confirm)
    for confirm in confirms:
        await confirm
    await publisher.close()


async def take(reader: NatsReader) -> Delivery:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.take()


async def delete_consumer(bus: NatsBus) -> None:
    """Delete the consumer once it knows of an open request, to which the server then answers.

    A request that comes while the consumer is being deleted may get no answer at all: that is what silence is for.
    """
    async with asyncio.timeout(PATIENCE_S):
        while (await bus.consumer_states(STREAM))[0].waiting == 0:
            pass
    await bus.delete_consumer(STREAM, "packer")


async def test_a_reader_asks_for_no_more_than_its_takers_can_use(bus: NatsBus, reader: NatsReader) -> None:
    takers = [asyncio.create_task(take(reader)) for _ in range(3)]
    await store(bus, 50)
    for taker in takers:
        await taker

    (state,) = await bus.consumer_states(STREAM)

    assert state.ack_pending == 3
    assert state.pending == 47


async def test_a_prefetch_is_kept_full_and_no_more(bus: NatsBus, reader: NatsReader) -> None:
    reader.prefetch = 10
    await store(bus, 100)
    for _ in range(40):
        reader.ack(await take(reader))
    await bus._connection.flush()

    (state,) = await bus.consumer_states(STREAM)

    assert state.ack_pending <= 10
    assert state.pending >= 50


async def test_a_prefetch_of_large_messages_is_bounded_by_their_bytes(
    bus: NatsBus, reader: NatsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.bus.pull.PREFETCH_BYTES", 20_000)
    reader.prefetch = 1_000
    await store(bus, 200, size_bytes=1_000)
    for _ in range(80):
        reader.ack(await take(reader))
    await bus._connection.flush()

    (state,) = await bus.consumer_states(STREAM)

    assert state.ack_pending <= 20
    assert state.pending >= 100


async def test_an_outage_while_binding_anew_does_not_end_a_reader(
    bus: NatsBus, reader: NatsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe, failures = bus._connection.subscribe, [BusUnavailableError("no answer to a flush")]

    async def flaky(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await subscribe(*arguments)

    monkeypatch.setattr(bus._connection, "subscribe", flaky)
    taking = asyncio.create_task(take(reader))
    with actions() as logged:
        await delete_consumer(bus)
        await logged.wait_for("gone")
        await bus.ensure_consumer(CONSUMER)
        await logged.wait_for("bound")
    monkeypatch.undo()
    await store(bus, 1)

    delivery = await taking

    assert (failures, delivery.data) == ([], b"0")


async def test_a_reader_that_is_drained_while_it_suspects_the_server_stays_drained(
    bus: NatsBus, nats_server: EmbeddedServer, reader: NatsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SILENCE_S", 0.2)
    monkeypatch.setattr(pull, "WATCH_S", 0.05)
    answered, ask = asyncio.Event(), reader._topology.ack_wait_s

    async def ask_and_tell(*arguments: Any) -> float:
        try:
            return await ask(*arguments)
        finally:
            answered.set()

    monkeypatch.setattr(reader._topology, "ack_wait_s", ask_and_tell)
    taking = asyncio.create_task(take(reader))
    with actions() as logged:
        os.kill(nats_server.pid, signal.SIGSTOP)
        try:
            await logged.wait_for("silent")
            draining = asyncio.create_task(reader.drain())
            with pytest.raises(ReaderClosed):
                await taking
        finally:
            os.kill(nats_server.pid, signal.SIGCONT)
    await draining
    await answered.wait()
    await asyncio.sleep(0)

    assert reader.state is PullState.DRAINING
    assert reader._requests.count == 0


async def test_a_message_that_comes_again_is_settled_under_its_newest_delivery(
    bus: NatsBus, reader: NatsReader
) -> None:
    await store(bus, 1)
    delivery = await take(reader)
    first_reply = delivery.reply
    waiting = asyncio.create_task(take(reader))
    bus.send(first_reply, b"-NAK")

    await until(lambda: delivery.attempt == 2)
    reader.ack(delivery)
    await bus._connection.flush()
    (state,) = await bus.consumer_states(STREAM)

    assert not waiting.done()
    assert delivery.reply != first_reply
    assert (state.ack_pending, state.ack_floor) == (0, 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_deliveries_in_hand_are_kept_alive(bus: NatsBus) -> None:
    """Longer than the ack wait in hand, taken and buffered: neither is delivered a second time."""
    short = ConsumerConfig(stream=STREAM, durable="short", filter_subjects=("orders.new",), ack_wait_s=1.0)
    await bus.ensure_consumer(short)
    reader = bus.reader(short, create=False)
    reader.prefetch = 1
    await reader.start()
    await store(bus, 2)
    taken = await take(reader)
    await until(lambda: reader.in_hand == 2)

    await asyncio.sleep(2.0)  # the time that passes is what is tested
    reader.ack(taken)
    buffered = await take(reader)

    assert (taken.attempt, buffered.attempt) == (1, 1)
    reader.ack(buffered)
    await reader.close()


async def test_a_cancelled_take_loses_nothing(bus: NatsBus, reader: NatsReader) -> None:
    await store(bus, 20)
    numbers = []
    for _ in range(20):
        taking = asyncio.create_task(reader.take())
        await asyncio.sleep(0)
        taking.cancel()
        (result,) = await asyncio.gather(taking, return_exceptions=True)
        if isinstance(result, Delivery):  # it was faster
            numbers.append(int(result.data))

    numbers += [int((await take(reader)).data) for _ in range(20 - len(numbers))]

    assert sorted(numbers) == list(range(20))


async def test_what_was_prefetched_is_given_back_at_once_when_draining(bus: NatsBus) -> None:
    first = bus.reader(CONSUMER, create=False)
    first.prefetch = 10
    await first.start()
    await store(bus, 10)
    await until(lambda: first.in_hand == 10)
    await first.close()

    second = bus.reader(CONSUMER, create=False)
    await second.start()
    async with asyncio.timeout(1.5):  # the ack wait is 2 s
        numbers = [int((await second.take()).data) for _ in range(10)]

    assert sorted(numbers) == list(range(10))
    await second.close()


async def test_a_consumer_that_is_pushed_ends_the_reader_with_a_remedy(bus: NatsBus) -> None:
    body = (
        b'{"stream_name":"orders","config":{"durable_name":"pushed","ack_policy":"explicit",'
        b'"deliver_policy":"all","deliver_subject":"somewhere","filter_subject":"orders.new"}}'
    )
    await bus.request("$JS.API.CONSUMER.DURABLE.CREATE.orders.pushed", body, timeout_s=5)
    reader = bus.reader(ConsumerConfig(stream=STREAM, durable="pushed", filter_subjects=("orders.new",)), create=False)
    await reader.start()

    with pytest.raises(BusError, match="push"):
        await take(reader)

    await reader.close()
