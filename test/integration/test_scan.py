"""A scan on a real server that loses its consumer, or the server, in the middle."""

import asyncio
import json

import pytest

from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.scan import PAGE_MESSAGES
from runtime.errors import BusUnavailableError, NotFoundError

COUNT = 3 * PAGE_MESSAGES
PATIENCE_S = 20.0


async def filled(url: str) -> NatsBus:
    """Return a connection to a server that has the stream `orders` with messages in it."""
    bus = await NatsBus.connect([url], name="scan", request_timeout_s=1.0)
    await bus.ensure_stream(StreamConfig(name="orders", subjects=("orders.>",)))
    publisher = bus.publisher("orders")
    for number in range(COUNT):
        await publisher.publish("orders.new", b"x", message_id=f"m{number}", confirm=lambda error: None)
    await publisher.flush()
    await publisher.close()
    return bus


async def delete_consumers(bus: NatsBus) -> int:
    """Delete every consumer of the stream, from outside; returns how many there were."""
    answer = await bus.request("$JS.API.CONSUMER.NAMES.orders", b"", timeout_s=5.0)
    found = json.loads(answer.data)["consumers"] or []
    for name in found:
        await bus.request(f"$JS.API.CONSUMER.DELETE.orders.{name}", b"", timeout_s=5.0)
    return len(found)


async def test_a_scan_whose_consumer_is_gone_goes_on_where_it_stopped(nats_server: EmbeddedServer) -> None:
    bus = await filled(nats_server.url)
    scan = await bus.scan("orders")
    found = [message.sequence for message in await scan.read()]

    assert await delete_consumers(bus) == 1
    while page := await scan.read():
        found += [message.sequence for message in page]

    assert found == list(range(1, COUNT + 1))
    await scan.close()
    await bus.close()


async def test_a_scan_by_time_that_never_read_begins_at_that_time_again(nats_server: EmbeddedServer) -> None:
    bus = await filled(nats_server.url)
    since_ns = (await bus.get_message("orders", COUNT - 1)).time_ns
    scan = await bus.scan("orders", since_ns=since_ns - 1_000)
    expected = scan.left

    assert await delete_consumers(bus) == 1
    found = await scan.read()

    assert len(found) == expected < COUNT
    await scan.close()
    await bus.close()


async def test_a_closed_scan_leaves_no_consumer_behind(nats_server: EmbeddedServer) -> None:
    bus = await filled(nats_server.url)
    scan = await bus.scan("orders")
    await scan.read()

    await scan.close()

    assert await delete_consumers(bus) == 0
    await bus.close()


async def test_a_scan_survives_a_restart_of_the_server(nats_server: EmbeddedServer) -> None:
    bus = await filled(nats_server.url)
    scan = await bus.scan("orders")
    found = [message.sequence for message in await scan.read()]

    await nats_server.stop()
    with pytest.raises(BusUnavailableError):
        await scan.read()
    await nats_server.start()
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < COUNT:
            try:
                found += [message.sequence for message in await scan.read()]
            except BusUnavailableError:
                continue

    assert found == list(range(1, COUNT + 1))
    await scan.close()
    await bus.close()


async def test_a_stream_that_is_gone_is_told(nats_server: EmbeddedServer) -> None:
    bus = await filled(nats_server.url)
    scan = await bus.scan("orders")
    await bus.request("$JS.API.STREAM.DELETE.orders", b"", timeout_s=5.0)

    with pytest.raises(NotFoundError):
        await scan.read()

    await scan.close()
    await bus.close()
