"""Batches: messages that are stored together or not at all, with the failures of a single publish."""

import asyncio

import pytest

from runtime.bus import batch
from runtime.bus.base import Bus, Publisher
from runtime.bus.batch import BatchMessage
from runtime.errors import BusClosedError, BusUnavailableError, MessageTooLargeError, StreamFullError
from test.conformance.bus.backends import STREAM, Backend, Confirms, publish, soon, stream
from test.conformance.bus.test_publish import BIG, FEW_BYTES, fill, texts_of
from test.support.waiting import until


async def publish_batch(publisher: Publisher, payloads: list[str], confirms: Confirms) -> None:
    """Publish texts as one batch, each under its first 20 characters as the id."""
    messages = [BatchMessage(f"{STREAM}.new", text.encode(), text[:20], confirms.of(text[:20])) for text in payloads]
    await soon(publisher.publish_batch(messages))


async def test_a_batch_is_stored_in_its_order_and_each_message_confirmed_once(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))
    publisher = bus.publisher(STREAM)
    confirms = Confirms()

    await publish_batch(publisher, ["a", "b", "c"], confirms)
    assert confirms.errors == []
    await soon(publisher.flush())

    assert (confirms.ids, confirms.errors) == (["a", "b", "c"], [None] * 3)
    assert (await bus.stream_state(STREAM)).last_sequence == 3
    assert await texts_of(bus, 1, 3) == ["a", "b", "c"]


async def test_batches_and_messages_keep_the_order_of_publish(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))
    publisher = bus.publisher(STREAM)
    confirms = Confirms()

    for number in range(100):
        await publish(publisher, f"{number}", confirms)
        await publish_batch(publisher, [f"{number}-a", f"{number}-b"], confirms)
    await soon(publisher.flush())

    assert confirms.errors == [None] * 300
    expected = [text for number in range(100) for text in (f"{number}", f"{number}-a", f"{number}-b")]
    assert await texts_of(bus, 1, 300) == expected


async def test_a_batch_that_comes_again_is_stored_once_and_confirmed_each_time(backend: Backend, bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))
    one, other = bus.publisher(STREAM), (await backend.connect()).publisher(STREAM)
    confirms = Confirms()

    for publisher in (one, one, other):
        await publish_batch(publisher, ["a", "b", "c"], confirms)
        await soon(publisher.flush())

    assert confirms.errors == [None] * 9
    assert (await bus.stream_state(STREAM)).last_sequence == 3


async def test_of_a_batch_that_is_known_in_part_the_rest_is_stored(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    await publish(publisher, "b", confirms)

    await publish_batch(publisher, ["a", "b", "c"], confirms)
    await publish(publisher, "d", confirms)
    await soon(publisher.flush())

    assert confirms.errors == [None] * 5
    assert (await bus.stream_state(STREAM)).last_sequence == 4
    assert sorted(await texts_of(bus, 1, 4)) == ["a", "b", "c", "d"]


async def test_a_batch_for_which_there_is_no_room_is_held_as_a_whole_until_there_is(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True, max_bytes=FEW_BYTES))
    full = await fill(bus)
    await bus.purge(STREAM, below=3)
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    texts = [f"batch-{number}-{BIG}" for number in range(5)]

    await publish_batch(publisher, texts, confirms)
    await until(lambda: publisher.held)
    await asyncio.sleep(0.2)
    state = await bus.stream_state(STREAM)
    assert (confirms.errors, state.last_sequence) == ([], full)
    await bus.purge(STREAM, below=full + 1)
    await soon(publisher.flush())

    assert confirms.errors == [None] * 5
    assert not publisher.held
    assert await texts_of(bus, full + 1, full + 5) == texts


async def test_a_batch_is_given_up_as_a_whole_when_the_stream_stays_full(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True, max_bytes=FEW_BYTES))
    full = await fill(bus)
    await bus.purge(STREAM, below=2)
    publisher = bus.publisher(STREAM, give_up_s=0.3)
    confirms = Confirms()

    await publish_batch(publisher, [f"batch-{number}-{BIG}" for number in range(3)], confirms)
    await soon(publisher.flush())

    assert [type(error) for error in confirms.errors] == [StreamFullError] * 3
    assert (await bus.stream_state(STREAM)).last_sequence == full


async def test_a_stream_that_takes_no_batches_yet_gets_them_once_it_does(bus: Bus) -> None:
    await bus.ensure_stream(stream())
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    await publish_batch(publisher, ["a", "b"], confirms)
    await until(lambda: publisher.held)

    assert await bus.ensure_stream(stream(atomic=True)) == [f"stream {STREAM}: atomic: False -> True"]
    await soon(publisher.flush())

    assert confirms.errors == [None] * 2
    assert await texts_of(bus, 1, 2) == ["a", "b"]


async def test_a_stream_that_takes_no_batches_is_unavailable_for_them(orders: Bus) -> None:
    publisher = orders.publisher(STREAM, give_up_s=0.2)
    confirms = Confirms()

    await publish_batch(publisher, ["a", "b"], confirms)
    await soon(publisher.flush())

    assert [type(error) for error in confirms.errors] == [BusUnavailableError] * 2
    assert (await orders.stream_state(STREAM)).last_sequence == 0


async def test_a_stream_stops_taking_batches_when_nobody_asks_for_them_any_more(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))

    assert await bus.ensure_stream(stream()) == [f"stream {STREAM}: atomic: True -> False"]
    assert await bus.ensure_stream(stream()) == []


async def test_the_largest_batch_is_stored_and_a_larger_one_is_not_sent(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True))
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    texts = [f"{number}" for number in range(batch.MAX_MESSAGES)]

    with pytest.raises(MessageTooLargeError, match="1,001 messages"):
        await publish_batch(publisher, [*texts, "too many"], confirms)
    with pytest.raises(MessageTooLargeError, match="with its headers"):
        await publish_batch(publisher, ["a", "x" * publisher.limit_bytes], confirms)
    with pytest.raises(MessageTooLargeError, match="stored together"):
        await publish_batch(publisher, [f"{n}-{'x' * 500_000}" for n in range(40)], confirms)
    await publish_batch(publisher, texts, confirms)
    await soon(publisher.flush())

    assert confirms.errors == [None] * batch.MAX_MESSAGES
    assert (await bus.stream_state(STREAM)).last_sequence == batch.MAX_MESSAGES


async def test_close_gives_up_every_message_of_a_batch(bus: Bus) -> None:
    await bus.ensure_stream(stream(atomic=True, max_bytes=FEW_BYTES))
    await fill(bus)
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    await publish_batch(publisher, [f"{number}-{BIG}" for number in range(3)], confirms)
    await until(lambda: publisher.held)

    await soon(publisher.close())
    await publish_batch(publisher, ["a", "b"], confirms)

    await until(lambda: len(confirms.errors) == 5)
    assert [type(error) for error in confirms.errors] == [BusClosedError] * 5
