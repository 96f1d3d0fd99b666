"""Scans: reading what a stream keeps, without anybody's noticing."""

import asyncio

import pytest

from runtime.bus.base import Bus
from runtime.bus.stored import Scan
from runtime.errors import NotFoundError
from test.conformance.bus.backends import (
    PATIENCE_S,
    STREAM,
    Backend,
    consumer,
    expect_silence,
    soon,
    started_reader,
    store,
    take,
    take_texts,
)


async def read_all(scan: Scan) -> list[str]:
    texts: list[str] = []
    while page := await soon(scan.read()):
        texts += [message.data.decode() for message in page]
    return texts


async def test_a_scan_reads_every_message_once_in_its_order(orders: Bus) -> None:
    texts = [f"m{number}" for number in range(1_234)]
    await store(orders, *texts)

    scan = await orders.scan(STREAM)
    left = scan.left
    found = await read_all(scan)
    await scan.close()

    assert (left, scan.left) == (1_234, 0)
    assert found == texts


async def test_a_message_comes_as_it_is_stored(orders: Bus) -> None:
    await store(orders, "one")
    stored = await orders.get_message(STREAM, 1)

    scan = await orders.scan(STREAM)
    [message] = await soon(scan.read())

    assert (message.subject, message.sequence, message.data) == (stored.subject, 1, b"one")
    assert dict(message.headers) == {"Nats-Msg-Id": "one"}
    assert abs(message.time_ns - stored.time_ns) < 1_000  # the server tells a single message's time in microseconds
    await scan.close()


async def test_a_scan_selects_subjects_and_begins_at_a_sequence(orders: Bus) -> None:
    for number in range(6):
        await store(orders, f"m{number}", subject=f"{STREAM}.{'even' if number % 2 == 0 else 'odd'}")
    await store(orders, "deep", subject=f"{STREAM}.odd.main.p3")

    scan = await orders.scan(STREAM, subjects=[f"{STREAM}.odd", f"{STREAM}.odd.>"], first_sequence=3)

    assert scan.left == 3
    assert await read_all(scan) == ["m3", "m5", "deep"]
    await scan.close()


async def test_a_scan_begins_at_a_time(orders: Bus) -> None:
    await store(orders, "before")
    await asyncio.sleep(0.01)
    await store(orders, "first", "second")
    since_ns = (await orders.get_message(STREAM, 2)).time_ns - 1_000_000

    scan = await orders.scan(STREAM, since_ns=since_ns)

    assert await read_all(scan) == ["first", "second"]
    await scan.close()


async def test_what_was_removed_is_left_out(orders: Bus) -> None:
    await store(orders, "one", "two", "three", "four")
    await orders.purge(STREAM, below=2)
    await orders.delete_message(STREAM, 3)

    scan = await orders.scan(STREAM)

    assert await read_all(scan) == ["two", "four"]
    await scan.close()


async def test_a_scan_waits_for_the_next_message_and_gives_up_in_time(orders: Bus) -> None:
    scan = await orders.scan(STREAM, subjects=[f"{STREAM}.wanted"])
    waiting = asyncio.create_task(scan.read(wait_s=PATIENCE_S))
    await store(orders, "other")
    await store(orders, "come", subject=f"{STREAM}.wanted")

    page = await soon(waiting)
    nothing = await soon(scan.read(wait_s=0.05))

    assert [message.data for message in page] == [b"come"]
    assert nothing == []
    await scan.close()


async def test_a_scan_disturbs_no_consumer_and_is_not_seen(orders: Bus) -> None:
    await store(orders, "one", "two", "three")
    reader = await started_reader(orders)
    await take_texts(reader, 1)
    in_hand = await take(reader)
    before = await orders.consumer_states(STREAM)

    scan = await orders.scan(STREAM)
    seen_meanwhile = await orders.consumer_states(STREAM)
    await read_all(scan)
    await scan.close()

    assert seen_meanwhile == before
    assert await orders.consumer_states(STREAM) == before
    assert before[0].filter_subjects == consumer().filter_subjects
    reader.ack(in_hand)
    assert await take_texts(reader, 1) == ["three"]
    await expect_silence(reader)
    await reader.close()


async def test_there_is_no_scan_of_a_stream_that_is_not_there(bus: Bus) -> None:
    with pytest.raises(NotFoundError):
        await bus.scan("none")


async def test_two_connections_scan_the_same_stream(orders: Bus, backend: Backend) -> None:
    await store(orders, "one", "two")
    other = await backend.connect()

    first, second = await orders.scan(STREAM), await other.scan(STREAM)

    assert await read_all(first) == await read_all(second) == ["one", "two"]
    await first.close()
    await second.close()
