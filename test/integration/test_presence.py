"""Presence on a real server: a restart that takes the bucket with it, and a watcher that was cut off."""

import asyncio
import json
from collections.abc import Callable

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.presence import Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import SystemClock

BUCKET = "presence"
RECORD = ServiceRecord.of_this_process("node", "score")
# Seconds until something that has to happen is taken for lost.
PATIENCE_S = 20.0


class Changes:
    """Wakes up whoever waits for a state of the set."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def __call__(self, key: str, record: ServiceRecord | None) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def test_everybody_is_back_after_a_restart_of_the_server(nats_server: EmbeddedServer) -> None:
    """The bucket lies in the server's memory: the beats make it anew, and the watch has to find that one."""
    writer = await NatsBus.connect([nats_server.url], name="writer")
    reader = await NatsBus.connect([nats_server.url], name="reader")
    changes = Changes()
    present = await PresenceSet.open(reader, BUCKET, "node.>", SystemClock(), on_change=changes)
    async with Heartbeat(writer, BUCKET, "node.s.score.a1", lambda: RECORD, SystemClock()):
        await changes.until(lambda: list(present.records) == ["node.s.score.a1"])

        await asyncio.to_thread(nats_server.stop_blocking)
        await changes.until(lambda: not present.records)
        await asyncio.to_thread(nats_server.start_blocking)

        await changes.until(lambda: list(present.records) == ["node.s.score.a1"])
    await changes.until(lambda: not present.records)
    await present.close()
    await writer.close()
    await reader.close()


async def test_a_watch_goes_on_when_its_consumer_was_deleted(nats_server: EmbeddedServer) -> None:
    """Nobody tells a push consumer's reader that it is gone; what it notices is the silence."""
    bus = await NatsBus.connect([nats_server.url], name="both")
    changes = Changes()
    present = await PresenceSet.open(bus, BUCKET, "node.>", SystemClock(), on_change=changes)
    [consumer] = await consumers(bus)
    await bus.delete_consumer(f"KV_{BUCKET}", consumer)

    async with Heartbeat(bus, BUCKET, "node.s.score.a1", lambda: RECORD, SystemClock()):
        await changes.until(lambda: list(present.records) == ["node.s.score.a1"])

    [anew] = await consumers(bus)
    assert anew != consumer
    await present.close()
    await bus.close()


async def consumers(bus: NatsBus) -> list[str]:
    """Return the names of the bucket's consumers, which are temporary ones."""
    answer = await bus.request(f"$JS.API.CONSUMER.NAMES.KV_{BUCKET}", b"", timeout_s=5)
    return list(json.loads(answer.data)["consumers"])
