"""Settling: ack, nak with its delay, term, keep-alive; late, twice and out of order."""

import time

import pytest

from runtime.bus.base import Bus
from test.conformance.bus.backends import (
    Backend,
    eventually,
    expect_silence,
    settled,
    started_reader,
    store,
    take,
    take_texts,
)
from test.support.waiting import until


async def test_an_acked_message_is_done(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    await store(orders, "a")
    delivery = await take(reader)
    assert (reader.in_hand, delivery.settled) == (1, False)

    reader.ack(delivery)

    assert (reader.in_hand, delivery.settled) == (0, True)
    await eventually(lambda: settled(orders), (0, 0, 1))
    await expect_silence(reader, 0.8)


async def test_a_nak_brings_the_message_again_after_its_delay(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    started_s = time.monotonic()

    reader.nak(delivery, 0.5)
    assert reader.in_hand == 0
    again = await take(reader)

    # 50 ms for clocks that differ.
    assert 0.45 <= time.monotonic() - started_s < 2.0
    assert (again.data, again.sequence, again.attempt) == (b"a", 1, 2)


async def test_while_a_nak_delays_one_message_the_others_go_on(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a", "b", "c")

    reader.nak(await take(reader), 0.5)

    assert await take_texts(reader, 3) == ["b", "c", "a"]
    await eventually(lambda: settled(orders), (0, 0, 3))


async def test_a_message_under_nak_delay_stays_pending(orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    await store(orders, "a")

    reader.nak(await take(reader), 60.0)

    await eventually(lambda: settled(orders), (0, 1, 0))
    await expect_silence(reader, 0.8)
    assert await settled(orders) == (0, 1, 0)


async def test_every_delivery_counts_as_an_attempt(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")

    attempts = []
    for _ in range(5):
        delivery = await take(reader)
        attempts.append(delivery.attempt)
        reader.nak(delivery, 0.0)

    assert attempts == [1, 2, 3, 4, 5]


async def test_a_terminated_message_never_comes_again(orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    await store(orders, "a", "b")

    reader.term(await take(reader))

    assert await take_texts(reader, 1) == ["b"]
    await eventually(lambda: settled(orders), (0, 0, 2))
    await expect_silence(reader, 0.8)


async def test_the_ack_floor_waits_for_the_oldest_unsettled_message(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a", "b", "c")
    first, second, third = [await take(reader) for _ in range(3)]

    reader.ack(third)
    await eventually(lambda: settled(orders), (0, 2, 0))
    reader.ack(first)
    await eventually(lambda: settled(orders), (0, 1, 1))
    reader.ack(second)

    await eventually(lambda: settled(orders), (0, 0, 3))


@pytest.mark.parametrize("second_verb", ["ack", "nak", "term"])
async def test_settling_an_acked_message_again_does_nothing(orders: Bus, second_verb: str) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    reader.ack(delivery)

    if second_verb == "nak":
        reader.nak(delivery, 0.0)
    else:
        getattr(reader, second_verb)(delivery)

    await eventually(lambda: settled(orders), (0, 0, 1))
    await expect_silence(reader)


async def test_an_ack_after_a_nak_does_not_take_it_back(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    reader.nak(delivery, 0.0)

    reader.ack(delivery)

    again = await take(reader)
    assert (again.data, again.attempt) == (b"a", 2)


async def test_a_late_ack_settles_although_another_reader_has_the_message(backend: Backend, orders: Bus) -> None:
    early = await started_reader(orders, ack_wait_s=0.5)
    late = await started_reader(await backend.connect(), ack_wait_s=0.5)
    await store(orders, "a")
    first = await take(early)
    await backend.redeliver(first)
    second = await take(late)

    early.ack(first)

    await eventually(lambda: settled(orders), (0, 0, 1))
    assert (second.sequence, second.attempt) == (1, 2)
    await expect_silence(early, 0.7)
    late.ack(second)
    assert await settled(orders) == (0, 0, 1)


async def test_an_ack_settles_a_redelivery_that_nobody_has_taken(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    await backend.redeliver(delivery)

    reader.ack(delivery)

    await eventually(lambda: settled(orders), (0, 0, 1))
    await store(orders, "b")
    assert await take_texts(reader, 1) == ["b"]
    await expect_silence(reader)


async def test_a_long_delivery_is_kept_alive_beyond_the_ack_wait(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    other = await started_reader(await backend.connect(), ack_wait_s=0.5)
    await store(orders, "a")
    delivery = await take(reader)

    await expect_silence(other, 1.3)

    reader.ack(delivery)
    await eventually(lambda: settled(orders), (0, 0, 1))
    assert delivery.attempt == 1


async def test_what_is_prefetched_is_kept_alive_as_well(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=1, ack_wait_s=0.5)
    other = await started_reader(await backend.connect(), ack_wait_s=0.5)
    await store(orders, "a")
    await until(lambda: reader.in_hand == 1)

    await expect_silence(other, 1.1)

    delivery = await take(reader)
    assert (delivery.data, delivery.attempt) == (b"a", 1)


async def test_a_drained_reader_keeps_alive_what_it_still_works_on(backend: Backend, orders: Bus) -> None:
    reader = await started_reader(orders, ack_wait_s=0.5)
    other = await started_reader(await backend.connect(), ack_wait_s=0.5)
    await store(orders, "a")
    delivery = await take(reader)

    await reader.drain()

    await expect_silence(other, 1.1)
    reader.ack(delivery)
    await eventually(lambda: settled(orders), (0, 0, 1))


async def test_keep_alive_restarts_the_ack_wait_now(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a")
    delivery = await take(reader)
    before_s = delivery.kept_alive_s

    reader.keep_alive(delivery)

    assert before_s < delivery.kept_alive_s <= time.monotonic()
