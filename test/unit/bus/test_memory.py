"""The in-memory bus in its own time: what the conformance suite would have to wait for, and the faults for tests."""

import asyncio

import pytest

from runtime.bus.base import ACK_WAIT_S, GIVE_UP_S, ConsumerConfig, Delivery, StreamConfig
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.memory_publisher import LONGEST_RETRY_S, WINDOW_MESSAGES
from runtime.bus.memory_reader import BIND_LIMIT_S, MemoryReader
from runtime.clock import FakeClock, settle
from runtime.errors import (
    BusClosedError,
    BusError,
    BusUnavailableError,
    NotFoundError,
    StreamFullError,
)

CONSUMER = ConsumerConfig(stream="s", durable="d", filter_subjects=("s.>",))


@pytest.fixture
def broker(clock: FakeClock) -> MemoryBroker:
    broker = MemoryBroker(clock)
    broker.streams.ensure_stream(StreamConfig(name="s", subjects=("s.>",)))
    return broker


@pytest.fixture
def bus(broker: MemoryBroker) -> MemoryBus:
    return broker.connect()


@pytest.fixture
async def reader(bus: MemoryBus) -> MemoryReader:
    return await started(bus)


async def started(bus: MemoryBus, config: ConsumerConfig = CONSUMER) -> MemoryReader:
    reader = bus.reader(config, create=True)
    await reader.start()
    return reader


async def store(bus: MemoryBus, *names: str) -> list[BusError | None]:
    """Publish each name under itself as the id; return what was confirmed so far."""
    confirmed: list[BusError | None] = []
    publisher = bus.publisher("s")
    for name in names:
        await publisher.publish("s.a", name.encode(), message_id=name, confirm=confirmed.append)
    await settle()
    return confirmed


class Taker:
    """One `take` in the background."""

    def __init__(self, reader: MemoryReader) -> None:
        self._task = asyncio.create_task(reader.take())

    async def delivery(self) -> Delivery | None:
        """Return what was taken once the loop has settled; None while nothing was."""
        await settle()
        return self._task.result() if self._task.done() else None


async def test_nothing_is_handed_over_inside_publish(bus: MemoryBus, reader: MemoryReader) -> None:
    taker = Taker(reader)
    await settle()
    confirmed: list[BusError | None] = []

    await bus.publisher("s").publish("s.a", b"x", message_id="x", confirm=confirmed.append)

    assert (confirmed, reader.in_hand) == ([], 0)
    assert await taker.delivery() is not None
    assert (confirmed, reader.in_hand) == ([None], 1)


async def test_a_nak_brings_the_message_at_its_delay_and_not_before(
    clock: FakeClock, bus: MemoryBus, reader: MemoryReader
) -> None:
    await store(bus, "x")
    reader.nak(await reader.take(), 10.0)
    taker = Taker(reader)

    await clock.advance(9.875)
    early = await taker.delivery()
    await clock.advance(0.125)
    again = await taker.delivery()

    assert early is None
    assert again is not None
    assert (again.data, again.attempt) == (b"x", 2)


async def test_delays_of_several_naks_are_independent(clock: FakeClock, bus: MemoryBus, reader: MemoryReader) -> None:
    await store(bus, "x", "y", "z")
    for delay_s in (30.0, 10.0, 20.0):
        reader.nak(await reader.take(), delay_s)
    takers = [Taker(reader) for _ in range(3)]

    order = []
    for _ in range(3):
        await clock.advance(10.0)
        order.append([delivery.data if delivery else None for delivery in [await each.delivery() for each in takers]])

    assert order == [[b"y", None, None], [b"y", b"z", None], [b"y", b"z", b"x"]]


async def test_after_a_crash_the_message_comes_again_when_the_ack_wait_is_over(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    crashed = broker.connect()
    await store(bus, "x")
    await (await started(crashed)).take()
    taker = Taker(await started(bus))

    crashed.kill()
    await clock.advance(ACK_WAIT_S - 0.125)
    early = await taker.delivery()
    await clock.advance(0.125)
    again = await taker.delivery()

    assert early is None
    assert again is not None
    assert again.attempt == 2


async def test_a_crash_after_keep_alive_counts_the_ack_wait_from_there(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    crashed = broker.connect()
    await store(bus, "x")
    crashed_reader = await started(crashed)
    delivery = await crashed_reader.take()
    taker = Taker(await started(bus))
    await clock.advance(5.0)
    crashed_reader.keep_alive(delivery)
    crashed.kill()

    await clock.advance(ACK_WAIT_S - 0.125)
    assert await taker.delivery() is None
    await clock.advance(0.125)

    assert await taker.delivery() is not None


async def test_a_message_in_hand_is_kept_alive_for_ever(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus, reader: MemoryReader
) -> None:
    await store(bus, "x")
    delivery = await reader.take()
    taker = Taker(await started(broker.connect()))

    await clock.advance(100 * ACK_WAIT_S)

    assert await taker.delivery() is None
    reader.ack(delivery)
    [state] = await bus.consumer_states("s")
    assert (state.pending, state.ack_pending, state.ack_floor) == (0, 0, 1)


async def test_an_id_is_forgotten_when_its_window_is_over(clock: FakeClock, bus: MemoryBus) -> None:
    await store(bus, "x")
    await clock.advance(119.875)
    assert await store(bus, "x") == [None]
    assert (await bus.stream_state("s")).messages == 1

    # The window counts from the first storing: the repeat did not prolong it.
    await clock.advance(0.125)

    assert await store(bus, "x") == [None]
    assert (await bus.stream_state("s")).messages == 2


async def test_messages_are_removed_at_their_age(clock: FakeClock, bus: MemoryBus) -> None:
    await bus.ensure_stream(StreamConfig(name="s", subjects=("s.>",), max_age_s=60.0))
    await store(bus, "x")
    await clock.advance(30.0)
    await store(bus, "y")

    await clock.advance(30.0)

    state = await bus.stream_state("s")
    assert (state.messages, state.first_sequence, state.last_sequence) == (1, 2, 2)


async def fill(bus: MemoryBus) -> int:
    """Make the stream full; return how many messages it holds."""
    await bus.ensure_stream(StreamConfig(name="s", subjects=("s.>",), max_bytes=1_000))
    publisher = bus.publisher("s", give_up_s=0.0)
    confirmed: list[BusError | None] = []
    while not any(confirmed):
        await publisher.publish("s.a", b"", message_id=f"fill-{len(confirmed)}", confirm=confirmed.append)
        await settle()
    return len(confirmed) - 1


async def test_a_full_stream_is_given_up_exactly_after_the_give_up_time(clock: FakeClock, bus: MemoryBus) -> None:
    await fill(bus)
    confirmed = await store(bus, "x")

    await clock.advance(GIVE_UP_S - 0.125)
    assert confirmed == []
    await clock.advance(0.125)

    assert [type(error) for error in confirmed] == [StreamFullError]


async def test_each_message_has_its_own_give_up_time(clock: FakeClock, bus: MemoryBus) -> None:
    await fill(bus)
    holds: list[bool] = []
    publisher = bus.publisher("s", on_hold=holds.append)
    confirmed: list[BusError | None] = []
    await publisher.publish("s.a", b"", message_id="early", confirm=confirmed.append)
    await clock.advance(10.0)
    await publisher.publish("s.a", b"", message_id="late", confirm=confirmed.append)

    await clock.advance(GIVE_UP_S - 10.0)
    assert (len(confirmed), publisher.held, holds) == (1, True, [True])
    await clock.advance(10.0)

    assert [type(error) for error in confirmed] == [StreamFullError] * 2
    assert (publisher.held, holds) == (False, [True, False])


async def test_a_purge_lets_a_held_publisher_go_on_within_the_longest_retry(clock: FakeClock, bus: MemoryBus) -> None:
    full = await fill(bus)
    confirmed = await store(bus, "x", "y")
    await clock.advance(20.0)

    await bus.purge("s", below=full + 1)
    await clock.advance(LONGEST_RETRY_S)

    assert confirmed == [None, None]
    assert (await bus.stream_state("s")).messages == 2


async def test_failed_publishes_are_retried_under_the_same_id(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    broker.fail_publishes(3)
    confirmed = await store(bus, "x", "y")
    assert confirmed == []

    # Three retries: after 50, 100 and 200 ms.
    await clock.advance(0.25)
    assert confirmed == []
    await clock.advance(0.25)

    assert confirmed == [None, None]
    assert [(await bus.get_message("s", number)).data for number in (1, 2)] == [b"x", b"y"]


async def test_further_messages_do_not_hasten_the_retry_of_a_held_one(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    broker.fail_publishes(3)
    publisher = bus.publisher("s")
    confirmed: list[BusError | None] = []
    for name in ("x", "y", "z"):
        await publisher.publish("s.a", b"", message_id=name, confirm=confirmed.append)
        await settle()

    await clock.advance(0.25)
    assert (confirmed, publisher.held) == ([], True)
    await clock.advance(0.25)

    assert (confirmed, publisher.held) == ([None] * 3, False)


async def test_an_outage_beyond_the_give_up_time_is_told(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    broker.pause()
    confirmed = await store(bus, "x")

    await clock.advance(GIVE_UP_S)

    assert [type(error) for error in confirmed] == [BusUnavailableError]


async def test_a_paused_broker_delivers_and_stores_nothing_until_resumed(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus, reader: MemoryReader
) -> None:
    await store(bus, "x")
    broker.pause()
    taker = Taker(reader)
    confirmed = await store(bus, "y")
    await clock.advance(1.0)
    assert (await taker.delivery(), confirmed) == (None, [])
    with pytest.raises(BusUnavailableError):
        await bus.stream_state("s")

    broker.resume()
    await clock.advance(LONGEST_RETRY_S)

    delivery = await taker.delivery()
    assert delivery is not None
    assert (delivery.data, confirmed) == (b"x", [None])


async def test_a_request_to_a_paused_broker_fails_after_its_time(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    broker.pause()
    asking = asyncio.create_task(bus.request("ask", b"", timeout_s=3.0))
    await settle()
    await clock.advance(2.875)
    assert not asking.done()

    await clock.advance(0.125)

    with pytest.raises(BusUnavailableError):
        await asking


async def test_a_consumer_that_stays_missing_ends_the_start(clock: FakeClock, bus: MemoryBus) -> None:
    starting = asyncio.create_task(bus.reader(CONSUMER, create=False).start())
    await settle()

    await clock.advance(BIND_LIMIT_S - 0.5)
    assert not starting.done()
    await clock.advance(0.5 + 0.2)

    with pytest.raises(NotFoundError):
        await starting


async def test_a_killed_connection_ends_everything_on_it_and_settles_nothing(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    killed = broker.connect()
    reader = await started(killed)
    await store(bus, "x")
    delivery = await reader.take()
    taking = asyncio.create_task(reader.take())
    broker.fail_publishes(100)
    confirmed = await store(killed, "unconfirmed")

    killed.kill()
    await settle()

    with pytest.raises(BusClosedError):
        await taking
    assert [type(error) for error in confirmed] == [BusClosedError]
    reader.ack(delivery)
    [state] = await bus.consumer_states("s")
    assert (state.ack_pending, state.waiting) == (1, 0)
    await asyncio.wait_for(killed.wait_closed(), timeout=1.0)
    await clock.advance(ACK_WAIT_S)
    again = await (await started(bus)).take()
    assert (again.data, again.attempt) == (b"x", 2)


async def test_a_publisher_waits_while_its_window_is_full(
    clock: FakeClock, broker: MemoryBroker, bus: MemoryBus
) -> None:
    broker.fail_publishes(1)
    confirmed = await store(bus, "first")
    publisher = bus.publisher("s")
    broker.fail_publishes(1)
    for number in range(WINDOW_MESSAGES):
        await publisher.publish("s.a", b"", message_id=str(number), confirm=confirmed.append)
    one_more = asyncio.create_task(publisher.publish("s.a", b"", message_id="more", confirm=confirmed.append))
    await settle()
    assert not one_more.done()

    await clock.advance(1.0)

    await one_more
    await settle()
    assert confirmed == [None] * (WINDOW_MESSAGES + 2)


async def test_a_message_that_comes_again_while_in_hand_changes_its_reply_and_attempt(
    broker: MemoryBroker, bus: MemoryBus, reader: MemoryReader
) -> None:
    await store(bus, "x")
    delivery = await reader.take()
    first_reply = delivery.reply
    taker = Taker(reader)
    await settle()

    broker.redeliver("s", "d", delivery.sequence)

    assert await taker.delivery() is None
    assert delivery.reply != first_reply
    assert (delivery.attempt, reader.in_hand) == (2, 1)


async def test_a_taker_that_is_cancelled_after_it_was_served_loses_nothing(
    bus: MemoryBus, reader: MemoryReader
) -> None:
    taking = asyncio.create_task(reader.take())
    await settle()

    def cancel_soon(error: BusError | None) -> None:
        asyncio.get_running_loop().call_soon(taking.cancel)

    # The confirm comes a turn before the taker is served, so the cancel comes right after, before the taker runs.
    await bus.publisher("s").publish("s.a", b"x", message_id="x", confirm=cancel_soon)
    await settle()

    assert (taking.cancelled(), reader.in_hand) == (True, 1)
    delivery = await asyncio.wait_for(reader.take(), timeout=1.0)
    assert (delivery.data, delivery.attempt) == (b"x", 1)


async def test_what_had_arrived_before_unsubscribe_is_still_handed_over(bus: MemoryBus) -> None:
    heard: list[bytes] = []
    subscription = await bus.subscribe("news", lambda message: heard.append(message.data))
    bus.send("news", b"before")

    await subscription.unsubscribe()
    bus.send("news", b"after")
    await settle()

    assert heard == [b"before"]
