"""Publishing: confirms, deduplication, sizes, and a stream that refuses."""

import asyncio

import pytest

from runtime.bus.base import Bus
from runtime.errors import (
    BusClosedError,
    BusUnavailableError,
    MessageTooLargeError,
    StreamFullError,
    WrongStreamError,
)
from test.conformance.bus.backends import (
    STREAM,
    Backend,
    Confirms,
    publish,
    soon,
    started_reader,
    store,
    stream,
    take_texts,
)
from test.support.waiting import until

# A payload of which a stream of FEW_BYTES holds only a few.
BIG = "x" * 1000
FEW_BYTES = 8_000


async def fill(bus: Bus) -> int:
    """Publish until the stream refuses; return how many messages it holds."""
    publisher = bus.publisher(STREAM, give_up_s=0.05)
    confirms = Confirms()
    while not any(confirms.errors):
        number = len(confirms.errors)
        await publish(publisher, f"fill-{number}-{BIG}", confirms)
        await soon(publisher.flush())
    await publisher.close()
    assert [type(error) for error in confirms.errors[-1:]] == [StreamFullError]
    return len(confirms.errors) - 1


async def texts_of(bus: Bus, first: int, last: int) -> list[str]:
    """Return the payloads of a range of sequences."""
    return [(await bus.get_message(STREAM, number)).data.decode() for number in range(first, last + 1)]


async def test_what_is_confirmed_is_stored_with_its_headers(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()

    await publisher.publish(
        f"{STREAM}.new", b"\x00\xff", message_id="id-1", confirm=confirms.of("id-1"), headers={"Krt-Redrive": "2"}
    )
    await soon(publisher.flush())

    message = await orders.get_message(STREAM, 1)
    assert confirms.errors == [None]
    assert (message.subject, message.sequence, message.data) == (f"{STREAM}.new", 1, b"\x00\xff")
    assert dict(message.headers) == {"Nats-Msg-Id": "id-1", "Krt-Redrive": "2"}


async def test_messages_are_stored_and_confirmed_in_the_order_of_publish(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()
    names = [f"m{number}" for number in range(500)]

    for name in names:
        await publish(publisher, name, confirms)
    await soon(publisher.flush())

    assert confirms.ids == names
    assert confirms.errors == [None] * 500
    assert (await orders.stream_state(STREAM)).last_sequence == 500
    assert await texts_of(orders, 1, 500) == names


async def test_confirm_is_never_called_inside_publish(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()

    await publish(publisher, "a", confirms)
    seen = list(confirms.errors)
    await soon(publisher.flush())

    assert seen == []
    assert confirms.errors == [None]


async def test_flush_without_messages_returns(orders: Bus) -> None:
    await soon(orders.publisher(STREAM).flush())


async def test_the_same_id_is_stored_once_and_confirmed_each_time(backend: Backend, orders: Bus) -> None:
    one, other = orders.publisher(STREAM), (await backend.connect()).publisher(STREAM)
    confirms = Confirms()

    for publisher in (one, one, other):
        await publisher.publish(f"{STREAM}.new", b"same", message_id="id-1", confirm=confirms.of("id-1"))
        await soon(publisher.flush())

    assert confirms.errors == [None] * 3
    assert (await orders.stream_state(STREAM)).messages == 1


async def test_an_id_is_remembered_although_its_message_was_purged(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()
    await publish(publisher, "a", confirms)
    await soon(publisher.flush())
    assert await orders.purge(STREAM, below=2) == 1

    await publish(publisher, "a", confirms)
    await soon(publisher.flush())

    assert confirms.errors == [None] * 2
    assert (await orders.stream_state(STREAM)).messages == 0


@pytest.mark.parametrize("header", ["plain", "ünïcödé"])
async def test_the_limit_counts_headers_and_a_message_beyond_it_is_not_sent(orders: Bus, header: str) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()
    lines = f"NATS/1.0\r\nNats-Msg-Id: id-1\r\nKrt-Origin: {header}\r\n\r\n"
    room = publisher.limit_bytes - len(lines.encode())

    with pytest.raises(MessageTooLargeError):
        await publisher.publish(
            f"{STREAM}.new", b"x" * (room + 1), message_id="id-1",
            confirm=confirms.of("id-1"), headers={"Krt-Origin": header},
        )  # fmt: skip
    await publisher.publish(
        f"{STREAM}.new", b"x" * room, message_id="id-1", confirm=confirms.of("id-1"), headers={"Krt-Origin": header}
    )
    await soon(publisher.flush())

    assert publisher.limit_bytes == orders.max_payload_bytes
    assert confirms.errors == [None]
    assert len((await orders.get_message(STREAM, 1)).data) == room


async def test_a_full_stream_holds_the_publisher_until_a_purge_and_loses_nothing(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    held_by_fill = await fill(bus)
    holds: list[bool] = []
    publisher = bus.publisher(STREAM, on_hold=holds.append)
    confirms = Confirms()
    names = [f"{number}-{BIG}" for number in range(5)]

    for name in names:
        await publish(publisher, name, confirms)
    await until(lambda: publisher.held)
    await asyncio.sleep(0.1)
    assert (confirms.errors, holds) == ([], [True])
    assert (await bus.stream_state(STREAM)).messages == held_by_fill
    await bus.purge(STREAM, below=held_by_fill + 1)
    await soon(publisher.flush())

    assert confirms.errors == [None] * 5
    assert (publisher.held, holds) == (False, [True, False])
    state = await bus.stream_state(STREAM)
    assert (state.first_sequence, state.last_sequence) == (held_by_fill + 1, held_by_fill + 5)
    assert sorted(await texts_of(bus, held_by_fill + 1, held_by_fill + 5)) == names


async def test_what_a_full_stream_held_is_stored_in_the_order_of_publish(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    first = await fill(bus) + 1
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    names = [f"{number}-{BIG}" for number in range(5)]

    for name in names:
        await publish(publisher, name, confirms)
        await asyncio.sleep(0.03)
    await bus.purge(STREAM, below=first)
    await soon(publisher.flush())

    assert confirms.ids == [name[:20] for name in names]
    assert await texts_of(bus, first, first + 4) == names


async def test_a_stream_that_stays_full_is_given_up_with_its_error(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    await fill(bus)
    holds: list[bool] = []
    publisher = bus.publisher(STREAM, on_hold=holds.append, give_up_s=0.3)
    confirms = Confirms()

    await publish(publisher, f"a-{BIG}", confirms)
    await publish(publisher, f"b-{BIG}", confirms)
    await soon(publisher.flush())

    assert [type(error) for error in confirms.errors] == [StreamFullError] * 2
    assert (publisher.held, holds) == (False, [True, False])


async def test_a_duplicate_is_confirmed_although_the_stream_is_full(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    await store(bus, "known")
    await fill(bus)
    publisher = bus.publisher(STREAM)
    confirms = Confirms()

    await publish(publisher, "known", confirms)
    await soon(publisher.flush())

    assert confirms.errors == [None]
    assert not publisher.held


async def test_a_subject_without_a_stream_is_retried_and_given_up_as_unavailable(orders: Bus) -> None:
    holds: list[bool] = []
    publisher = orders.publisher(STREAM, on_hold=holds.append, give_up_s=0.3)
    confirms = Confirms()

    await publish(publisher, "a", confirms, subject="nobody.listens")
    await until(lambda: publisher.held)
    await soon(publisher.flush())

    assert [type(error) for error in confirms.errors] == [BusUnavailableError]
    assert holds == [True, False]


async def test_a_stream_that_appears_in_time_gets_the_message(bus: Bus) -> None:
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    await publish(publisher, "a", confirms)
    await until(lambda: publisher.held)

    await bus.ensure_stream(stream())

    await soon(publisher.flush())
    assert confirms.errors == [None]
    assert await take_texts(await started_reader(bus), 1) == ["a"]


async def test_a_subject_of_another_stream_is_an_error(orders: Bus) -> None:
    await orders.ensure_stream(stream(name="others", subjects=("others.>",)))
    publisher = orders.publisher(STREAM)
    confirms = Confirms()

    await publish(publisher, "a", confirms, subject="others.new")
    await soon(publisher.flush())

    assert [type(error) for error in confirms.errors] == [WrongStreamError]
    assert (await orders.stream_state(STREAM)).messages == 0


async def test_close_gives_up_what_is_unconfirmed(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    full = await fill(bus)
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    await publish(publisher, f"a-{BIG}", confirms)
    await publish(publisher, f"b-{BIG}", confirms)
    await until(lambda: publisher.held)

    await soon(publisher.close())

    assert [type(error) for error in confirms.errors] == [BusClosedError] * 2
    await bus.purge(STREAM, below=full + 1)
    await asyncio.sleep(0.3)
    assert (await bus.stream_state(STREAM)).messages == 0
    assert len(confirms.errors) == 2


async def test_a_message_for_a_closed_publisher_is_confirmed_as_closed(orders: Bus) -> None:
    publisher = orders.publisher(STREAM)
    confirms = Confirms()
    await soon(publisher.close())

    await publish(publisher, "a", confirms)

    await until(lambda: len(confirms.errors) == 1)
    assert [type(error) for error in confirms.errors] == [BusClosedError]
    assert (await orders.stream_state(STREAM)).messages == 0


async def test_publish_waits_while_the_window_of_unconfirmed_messages_is_full(bus: Bus) -> None:
    await bus.ensure_stream(stream(max_bytes=FEW_BYTES))
    await fill(bus)
    publisher = bus.publisher(STREAM)
    confirms = Confirms()
    payload = "x" * (publisher.limit_bytes - 200)
    handed_over = 0

    async def publish_many() -> None:
        nonlocal handed_over
        for number in range(100):
            confirm = confirms.of(str(number))
            await publisher.publish(f"{STREAM}.new", payload.encode(), message_id=str(number), confirm=confirm)
            handed_over += 1

    publishing = asyncio.create_task(publish_many())
    await until(lambda: handed_over >= 30)
    await asyncio.wait([publishing], timeout=0.5)

    # 32 MiB of messages just under 1 MiB; the last may reach over the bound.
    assert handed_over in (32, 33)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await soon(publisher.close())
    assert [type(error) for error in confirms.errors] == [BusClosedError] * handed_over
