"""Taking: order, sharing, what is asked for, and what a reader survives."""

import asyncio
import time

import pytest

from runtime.bus.base import Bus, Delivery, ReaderClosed
from runtime.errors import BusClosedError
from test.conformance.bus.backends import (
    SILENCE_S,
    STREAM,
    Backend,
    Confirms,
    consumer,
    eventually,
    expect_silence,
    settled,
    soon,
    started_reader,
    store,
    take,
    take_texts,
)
from test.support.waiting import until


async def test_messages_are_taken_in_order_with_everything_that_was_published(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()
    for number in range(3):
        await publisher.publish(
            f"{STREAM}.new.{number}", b"\x00%d" % number, message_id=f"id-{number}",
            confirm=confirms.of("each"), headers={"Krt-Origin": str(number)},
        )  # fmt: skip
    await soon(publisher.flush())
    reader = await started_reader(orders)

    deliveries = [await take(reader) for _ in range(3)]

    assert [each.subject for each in deliveries] == [f"{STREAM}.new.{number}" for number in range(3)]
    assert [each.data for each in deliveries] == [b"\x000", b"\x001", b"\x002"]
    assert [(each.headers or {})["Krt-Origin"] for each in deliveries] == ["0", "1", "2"]
    assert [(each.sequence, each.attempt, each.pending) for each in deliveries] == [(1, 1, 2), (2, 1, 1), (3, 1, 0)]
    assert all(abs(each.time_ns - time.time_ns()) < 60e9 for each in deliveries)
    assert confirms.errors == [None] * 3


async def test_a_durable_selects_by_several_filters_with_wildcards(orders: Bus) -> None:
    reader = await started_reader(orders, filter_subjects=(f"{STREAM}.a", f"{STREAM}.b.*", f"{STREAM}.c.>"))

    for subject in ("a", "a.x", "b", "b.x", "b.x.y", "c", "c.x.y", "d"):
        await store(orders, subject, subject=f"{STREAM}.{subject}")

    assert await take_texts(reader, 3) == ["a", "b.x", "c.x.y"]
    await expect_silence(reader)
    await eventually(lambda: settled(orders), (0, 0, 7))


async def test_take_waits_for_the_next_message(orders: Bus) -> None:
    reader = await started_reader(orders)
    waiting = asyncio.create_task(reader.take())
    await expect_silence(reader)

    await store(orders, "late")

    assert (await soon(waiting)).data == b"late"


async def test_two_durables_each_get_every_message(orders: Bus) -> None:
    one = await started_reader(orders, durable="one")
    other = await started_reader(orders, durable="other")

    await store(orders, "a", "b", "c")

    assert await take_texts(one, 3) == ["a", "b", "c"]
    assert await take_texts(other, 3) == ["a", "b", "c"]


async def test_two_readers_of_a_durable_share_by_waiting_takers(backend: Backend, orders: Bus) -> None:
    readers = [await started_reader(orders), await started_reader(await backend.connect())]
    takers = [asyncio.create_task(reader.take()) for reader in readers]
    await asyncio.wait(takers, timeout=SILENCE_S)

    await store(orders, "a", "b")

    texts = [(await soon(taker)).data for taker in takers]
    assert sorted(texts) == [b"a", b"b"]
    assert [reader.in_hand for reader in readers] == [1, 1]


async def test_two_readers_together_take_every_message_once(backend: Backend, orders: Bus) -> None:
    names = [f"m{number}" for number in range(200)]
    taken: list[str] = []
    readers = [await started_reader(orders, prefetch=5), await started_reader(await backend.connect(), prefetch=5)]

    async def work(number: int) -> None:
        while True:
            delivery = await readers[number].take()
            taken.append(delivery.data.decode())
            readers[number].ack(delivery)

    workers = [asyncio.create_task(work(number)) for number in (0, 1)]
    await store(orders, *names)
    await until(lambda: len(taken) >= len(names))
    await eventually(lambda: settled(orders), (0, 0, len(names)))
    for reader in readers:
        await reader.close()
    ends = await asyncio.gather(*workers, return_exceptions=True)

    assert sorted(taken) == sorted(names)
    assert [type(end) for end in ends] == [ReaderClosed, ReaderClosed]


async def test_one_taker_asks_for_one_message_and_leaves_the_rest_to_others(backend: Backend, orders: Bus) -> None:
    greedy = await started_reader(orders)
    await store(orders, "a", "b", "c")
    first = await take(greedy)

    other = await started_reader(await backend.connect())

    assert first.data == b"a"
    assert await take_texts(other, 2) == ["b", "c"]
    assert greedy.in_hand == 1


async def test_prefetch_bounds_what_is_asked_for_beyond_the_takers(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=2)
    await store(orders, "a", "b", "c", "d", "e")
    await take(reader)
    await until(lambda: reader.in_hand == 3)

    other = await started_reader(await backend.connect())

    assert await take_texts(other, 2) == ["d", "e"]
    assert reader.in_hand == 3
    assert await take_texts(reader, 2) == ["b", "c"]


async def test_a_cancelled_take_loses_nothing(orders: Bus) -> None:
    reader = await started_reader(orders)
    names = [f"m{number}" for number in range(40)]
    deliveries: list[Delivery] = []
    storing = asyncio.create_task(store(orders, *names))

    for turn in range(200):
        taker = asyncio.create_task(reader.take())
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        taker.cancel()
        deliveries += [end for end in await asyncio.gather(taker, return_exceptions=True) if isinstance(end, Delivery)]
    await soon(storing)
    while len(deliveries) < len(names):
        deliveries.append(await take(reader))

    assert [each.sequence for each in deliveries] == list(range(1, 41))
    assert {each.attempt for each in deliveries} == {1}
    assert reader.in_hand == 40


async def test_an_unsettled_message_is_not_handed_out_twice_while_it_is_in_hand(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    first_reply = delivery.reply
    waiting = asyncio.create_task(reader.take())

    await backend.redeliver(delivery)
    await until(lambda: delivery.reply != first_reply)
    await asyncio.wait([waiting], timeout=SILENCE_S)

    assert not waiting.done()
    assert reader.in_hand == 1
    reader.ack(delivery)
    await eventually(lambda: settled(orders), (0, 0, 1))
    await store(orders, "b")
    assert (await soon(waiting)).data == b"b"


async def test_drain_gives_back_what_was_not_taken_and_settling_goes_on(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=2)
    other = await started_reader(await backend.connect())
    await store(orders, "a", "b", "c")
    first = await take(reader)
    await until(lambda: reader.in_hand == 3)

    await soon(reader.drain())

    given_back = [await take(other), await take(other)]
    assert sorted((each.data, each.attempt) for each in given_back) == [(b"b", 2), (b"c", 2)]
    assert reader.in_hand == 1
    reader.ack(first)
    await eventually(lambda: settled(orders), (0, 2, 1))


async def test_drain_ends_every_take_waiting_or_later(orders: Bus) -> None:
    reader = await started_reader(orders)
    takers = [asyncio.create_task(reader.take()) for _ in range(3)]
    await expect_silence(reader)

    await soon(reader.drain())

    ends = await soon(asyncio.gather(*takers, return_exceptions=True))
    assert [type(end) for end in ends] == [ReaderClosed] * 3
    with pytest.raises(ReaderClosed):
        await take(reader)


async def test_close_gives_back_what_is_in_hand(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    await take(reader)

    await soon(reader.close())

    other = await started_reader(await backend.connect())
    delivery = await take(other)
    assert (delivery.data, delivery.attempt) == (b"a", 2)
    assert reader.in_hand == 0


async def test_a_message_in_hand_comes_again_after_the_ack_wait_when_its_connection_is_lost(
    backend: Backend, orders: Bus
) -> None:
    lost = await backend.connect()
    reader = await started_reader(lost, ack_wait_s=1.0)
    other = await started_reader(orders, ack_wait_s=1.0)
    await store(orders, "a")
    await take(reader)

    await lost.close()

    await expect_silence(other, 0.4)
    delivery = await take(other)
    assert (delivery.data, delivery.attempt) == (b"a", 2)


async def test_take_on_a_lost_connection_says_so(backend: Backend, orders: Bus) -> None:
    lost = await backend.connect()
    reader = await started_reader(lost)
    waiting = asyncio.create_task(reader.take())
    await expect_silence(reader)

    await lost.close()

    with pytest.raises(BusClosedError):
        await soon(waiting)
    with pytest.raises(BusClosedError):
        await take(reader)


async def test_a_held_reader_asks_for_nothing_until_released(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    reader.hold(True)
    waiting = asyncio.create_task(reader.take())
    await store(orders, "a", "b")

    await asyncio.wait([waiting], timeout=SILENCE_S)
    other = await started_reader(await backend.connect())
    assert await take_texts(other, 1) == ["a"]
    assert not waiting.done()
    reader.hold(False)

    assert (await soon(waiting)).data == b"b"


async def test_what_is_in_hand_is_kept_alive_while_held(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    other = await started_reader(await backend.connect(), ack_wait_s=0.5)
    await store(orders, "a")
    delivery = await take(reader)

    reader.hold(True)

    await expect_silence(other, 1.1)
    reader.ack(delivery)
    await eventually(lambda: settled(orders), (0, 0, 1))


async def test_with_create_a_missing_consumer_is_made(orders: Bus) -> None:
    await store(orders, "before")
    reader = orders.reader(consumer(), create=True)

    await soon(reader.start())

    assert await take_texts(reader, 1) == ["before"]
    assert [state.name for state in await orders.consumer_states(STREAM)] == ["packer"]


async def test_without_create_a_missing_consumer_is_waited_for(backend: Backend, orders: Bus) -> None:
    await store(orders, "before")
    reader = orders.reader(consumer(), create=False)
    starting = asyncio.create_task(reader.start())
    await asyncio.wait([starting], timeout=SILENCE_S)
    assert not starting.done()
    assert await orders.consumer_states(STREAM) == []

    await (await backend.connect()).ensure_consumer(consumer())

    await soon(starting)
    assert await take_texts(reader, 1) == ["before"]


async def test_a_consumer_that_is_deleted_while_reading_is_made_again(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    assert await take_texts(reader, 1) == ["a"]
    await eventually(lambda: settled(orders), (0, 0, 1))
    waiting = asyncio.create_task(reader.take())
    await expect_silence(reader)

    await backend.delete_consumer()
    again = await soon(waiting)

    assert (again.data, again.attempt) == (b"a", 1)
    reader.ack(again)
    await store(orders, "b")
    assert await take_texts(reader, 1) == ["b"]
    await eventually(lambda: settled(orders), (0, 0, 2))


async def test_a_planned_consumer_that_is_deleted_is_waited_for(backend: Backend, orders: Bus) -> None:
    await orders.ensure_consumer(consumer())
    reader = orders.reader(consumer(), create=False)
    await reader.start()
    waiting = asyncio.create_task(reader.take())
    await expect_silence(reader)

    await backend.delete_consumer()
    await store(orders, "a")
    await asyncio.wait([waiting], timeout=SILENCE_S)
    assert not waiting.done()
    await orders.ensure_consumer(consumer())

    assert (await soon(waiting)).data == b"a"


async def test_what_is_in_hand_outlives_its_consumer(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    in_hand = await take(reader)
    waiting = asyncio.create_task(reader.take())
    await expect_silence(reader)

    await backend.delete_consumer()
    await store(orders, "b")

    after = await soon(waiting)
    assert after.data == b"b"
    reader.ack(in_hand)
    reader.ack(after)
    await eventually(lambda: settled(orders), (0, 0, 2))


async def test_max_ack_pending_one_keeps_the_order_through_a_nak(orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=5, max_ack_pending=1)
    await store(orders, "a", "b")
    first = await take(reader)
    await expect_silence(reader)

    reader.nak(first, 0.2)

    again = await take(reader)
    assert (again.data, again.attempt) == (b"a", 2)
    reader.ack(again)
    assert await take_texts(reader, 1) == ["b"]
