"""Watches of buckets on a real server, where they are slow."""

import time

import pytest

from runtime.bus.base import Entry
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import BusUnavailableError

# Seconds that a request may take, and that this machine needs for one entry: all of them take several requests' time.
REQUEST_S, ENTRY_S, ENTRIES = 0.5, 0.005, 400


async def test_a_large_bucket_may_take_longer_than_one_request(nats_server: EmbeddedServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="watch", request_timeout_s=REQUEST_S)
    bucket = await bus.key_value("large", create=True)
    for number in range(ENTRIES):
        await bucket.put(f"key-{number}", bytes(10_000))
    told: list[str] = []

    def on_change(key: str, entry: Entry | None) -> None:
        time.sleep(ENTRY_S)
        told.append(key)

    watch = await bucket.watch("*", on_change)

    assert len(told) == ENTRIES
    await watch.unsubscribe()
    await bus.close()


async def test_a_bucket_that_is_silent_is_an_outage(nats_server: EmbeddedServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="watch", request_timeout_s=REQUEST_S)
    bucket = await bus.key_value("large", create=True)
    nats_server.stop_blocking()

    with pytest.raises(BusUnavailableError):
        await bucket.watch("*", lambda key, entry: None)

    await bus.close()
