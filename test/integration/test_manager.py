"""The manager on a real server: a small stream that is overfilled gets its room back by itself."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runtime.bus.base import Confirmation, ConsumerConfig, Publisher
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.errors import DriftError, StreamFullError
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec

SPEC = ManagerSpec(
    stream="local_v1_flow",
    subjects=("local_v1_flow.>",),
    storage="file",
    replicas=1,
    max_bytes=100_000,
    keep_s=3600,
    duplicate_window_s=120,
    consumers=(
        ConsumerSpec(durable="score__entrypoint", filter_subjects=("local_v1_flow.entrypoint",)),
        ConsumerSpec(durable="idle__score", filter_subjects=("local_v1_flow.score", "local_v1_flow.score.side")),
    ),
    dead_letters=DeadLetterSpec(stream="local_v1_flow_dlq", subjects=("local_v1_flow_dlq.>",), keep_s=90),
    buckets={"attempts_local_v1_flow": {}, "key-store_local_v1": {"mode": "fast"}},
    applied_bucket="applied_local_v1_flow",
)
SCORE = ConsumerConfig(
    stream=SPEC.stream, durable="score__entrypoint", filter_subjects=SPEC.consumers[0].filter_subjects
)
PATIENCE_S = 30.0


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="test")
    yield bus
    await bus.close()


@pytest.fixture
async def manager(bus: NatsBus) -> Manager:
    manager = Manager(bus, SPEC, SystemClock())
    await manager.apply()
    return manager


async def test_a_second_apply_finds_everything_as_it_left_it(
    manager: Manager, bus: NatsBus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "runtime.deploy.manager")

    await manager.apply()

    assert caplog.messages == []
    assert [state.name for state in await bus.consumer_states(SPEC.stream)] == ["idle__score", "score__entrypoint"]
    assert (await (await bus.key_value("key-store_local_v1")).get("mode")).value == b"fast"


async def test_another_storage_is_drift(manager: Manager, bus: NatsBus) -> None:
    other = Manager(bus, SPEC.model_copy(update={"storage": "memory"}), SystemClock())

    with pytest.raises(DriftError, match="storage: file -> memory"):
        await other.apply()


async def test_a_full_stream_refuses_until_its_messages_are_handled(manager: Manager, bus: NatsBus) -> None:
    publisher = bus.publisher(SPEC.stream, give_up_s=0.5)
    stored = 0
    with pytest.raises(StreamFullError):
        while True:
            await publish(publisher, stored)
            stored += 1
    assert await manager.look() == 0

    await handle(bus, stored)
    purged = await manager.look()
    await publish(publisher, stored)

    state = await bus.stream_state(SPEC.stream)
    assert 0 < purged < stored
    assert (state.messages, state.last_sequence) == (stored - purged + 1, stored + 1)
    await publisher.close()


async def test_backpressure_clears_by_itself_and_nothing_is_lost(manager: Manager, bus: NatsBus) -> None:
    count = 1000  # ten times what the stream holds
    publisher = bus.publisher(SPEC.stream)
    managing = asyncio.create_task(manager.run(), name="manager")

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        handled = group.create_task(handle(bus, count), name="handle")
        for number in range(count):
            group.create_task(publish(publisher, number), name=f"publish {number}")

    assert handled.result() == {payload(number) for number in range(count)}
    assert not managing.done()
    managing.cancel()
    await asyncio.gather(managing, return_exceptions=True)
    await publisher.close()


async def publish(publisher: Publisher, number: int) -> None:
    """Store a message of 1,000 bytes, and wait until it is there."""
    stored = Confirmation()
    subject = "local_v1_flow.entrypoint"
    await publisher.publish(subject, payload(number), message_id=f"m{number}", confirm=stored)
    await stored


def payload(number: int) -> bytes:
    return b"%06d" % number + b"x" * 994


async def handle(bus: NatsBus, count: int) -> set[bytes]:
    """Take and acknowledge so many messages."""
    reader = bus.reader(SCORE, create=False)
    await reader.start()
    seen = set()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(count):
            delivery = await reader.take()
            seen.add(delivery.data)
            reader.ack(delivery)
    await reader.close()
    return seen
