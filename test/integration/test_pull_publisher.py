"""The publish path against a real nats-server: backing off from a full stream, reconnecting, and a broken outbox."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.bus.base import Confirmation, StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import BusError, StreamFullError

STREAM = "orders"


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="test", request_timeout_s=1.0)
    yield bus
    await bus.close()


async def publish(publisher: Any, count: int, payload: bytes = b"x" * 1_000) -> list[Confirmation]:
    confirms = [Confirmation() for _ in range(count)]
    for number, confirm in enumerate(confirms):
        await publisher.publish("orders.new", payload, message_id=f"m{number}", confirm=confirm)
    return confirms


async def test_a_full_stream_is_asked_less_and_less_often(bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 20 tries a second would be the ticker's pace; backing off makes about 12 in three seconds."""
    await bus.ensure_stream(StreamConfig(name=STREAM, subjects=("orders.>",), max_bytes=5_000))
    held = asyncio.Event()
    publisher = bus.publisher(STREAM, give_up_s=3.0, on_hold=lambda _: held.set())
    confirms = await publish(publisher, 10)
    refused = confirms[-1]
    await held.wait()
    written: list[str] = []
    write = bus._connection.write

    def count(subject: str, *arguments: Any) -> None:
        written.append(subject)
        write(subject, *arguments)

    monkeypatch.setattr(bus._connection, "write", count)
    with pytest.raises(StreamFullError):
        await refused

    assert 3 <= written.count("orders.new") <= 20
    await asyncio.gather(*confirms, return_exceptions=True)
    await publisher.close()


async def test_what_was_published_while_away_is_sent_once(
    bus: NatsBus, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.ensure_stream(StreamConfig(name=STREAM, subjects=("orders.>",)))
    publisher = bus.publisher(STREAM)
    (first,) = await publish(publisher, 1)
    await first
    sent: list[bytes] = []
    client_write = bus._connection.client.write

    async def count(commands: bytes) -> None:
        sent.append(commands)
        await client_write(commands)

    monkeypatch.setattr(bus._connection.client, "write", count)

    away = asyncio.Event()
    bus._connection.listen(on_disconnect=away.set, on_reconnect=lambda: None)

    await nats_server.stop()
    async with asyncio.timeout(10):
        await away.wait()
    confirms = [Confirmation() for _ in range(5)]
    for number, confirm in enumerate(confirms):
        await publisher.publish("orders.new", b"x", message_id=f"late{number}", confirm=confirm)
    await nats_server.start()
    for confirm in confirms:
        await confirm

    assert b"".join(sent).count(b"PUB orders.new ") == 5
    assert (await bus.stream_state(STREAM)).messages == 6
    await publisher.close()


async def test_a_connection_that_cannot_send_counts_as_closed(bus: NatsBus, monkeypatch: pytest.MonkeyPatch) -> None:

    async def broken(*_: Any) -> None:
        raise ValueError("something that nobody foresaw")

    monkeypatch.setattr(bus._connection.client, "write", broken)
    bus.send("anything", b"")

    async with asyncio.timeout(5):
        await bus.wait_closed()


async def test_nothing_is_confirmed_before_it_is_stored(bus: NatsBus) -> None:
    await bus.ensure_stream(StreamConfig(name=STREAM, subjects=("orders.>",)))
    publisher = bus.publisher(STREAM)
    confirmed: list[BusError | None] = []

    for number in range(500):
        await publisher.publish("orders.new", b"x", message_id=f"m{number}", confirm=confirmed.append)
    assert confirmed == []
    await publisher.flush()

    assert confirmed == [None] * 500
    assert (await bus.stream_state(STREAM)).messages == 500
    await publisher.close()
