"""The manager on the in-memory bus: what it makes, what it purges, and what it leaves alone."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.bus.base import ConsumerConfig, Delivery, Reader, StreamConfig
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.memory_kv import MemoryKeyValue
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import FakeClock, settle
from runtime.deploy.manager import LOOK_EVERY_S, LOOK_WHEN_PRESSED_S, Manager
from runtime.errors import BusUnavailableError, DriftError, StreamFullError
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec, ObjectStoreSpec

KEEP_S = 60.0
SPEC = ManagerSpec(
    stream="s",
    subjects=("s.>",),
    storage="file",
    replicas=1,
    max_bytes=100_000,
    keep_s=KEEP_S,
    duplicate_window_s=120,
    consumers=(
        ConsumerSpec(durable="clean__entrypoint", filter_subjects=("s.entrypoint",)),
        ConsumerSpec(durable="score__clean", filter_subjects=("s.clean",)),
    ),
    dead_letters=DeadLetterSpec(stream="s_dlq", subjects=("s_dlq.>",), keep_s=90),
    buckets={"attempts_s": {}, "config": {"mode": "fast"}},
    applied_bucket="applied_s",
)


class Flow:
    """A workflow's stream with its manager; nodes are played by the test."""

    def __init__(self, broker: MemoryBroker, spec: ManagerSpec = SPEC) -> None:
        self.bus: MemoryBus = broker.connect()
        self.spec = spec
        self.manager = Manager(self.bus, spec, broker.clock)
        self.publisher = self.bus.publisher(spec.stream)
        self._stored = 0

    async def store(self, subject: str, count: int = 1, size_bytes: int = 10) -> None:
        for _ in range(count):
            self._stored += 1
            await self.publisher.publish(subject, b"x" * size_bytes, message_id=f"{self._stored}", confirm=print)
        await settle()

    async def reader(self, durable: str) -> Reader:
        config = next(one for one in self.spec.consumers if one.durable == durable)
        reader = self.bus.reader(
            ConsumerConfig(stream="s", durable=durable, filter_subjects=config.filter_subjects), create=False
        )
        await reader.start()
        return reader

    async def first(self) -> int:
        return (await self.bus.stream_state("s")).first_sequence


@pytest.fixture
async def flow(broker: MemoryBroker) -> AsyncIterator[Flow]:
    flow = Flow(broker)
    await flow.manager.apply()
    yield flow
    await flow.bus.close()


async def take(reader: Reader, count: int) -> list[Delivery]:
    return [await reader.take() for _ in range(count)]


async def handle(reader: Reader, count: int) -> None:
    for delivery in await take(reader, count):
        reader.ack(delivery)
    await settle()


# --- topology ---


async def test_everything_is_there_after_apply(broker: MemoryBroker) -> None:
    flow = Flow(broker)

    await flow.manager.apply()

    assert [state.name for state in await flow.bus.consumer_states("s")] == ["clean__entrypoint", "score__clean"]
    assert (await flow.bus.stream_state("s_dlq")).messages == 0
    for bucket in ("attempts_s", "config", "applied_s"):
        await flow.bus.key_value(bucket)


async def test_dead_letters_expire(flow: Flow, clock: FakeClock) -> None:
    await flow.bus.publisher("s_dlq").publish("s_dlq.clean", b"", message_id="d", confirm=print)
    await settle()

    await clock.advance(89)
    before = (await flow.bus.stream_state("s_dlq")).messages
    await clock.advance(1)

    assert (before, (await flow.bus.stream_state("s_dlq")).messages) == (1, 0)


async def test_a_second_apply_changes_nothing(flow: Flow, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await flow.manager.apply()

    assert caplog.records == []


async def test_every_change_is_a_line_of_the_log(
    flow: Flow, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    await Flow(broker, SPEC.model_copy(update={"max_bytes": 200_000})).manager.apply()

    assert caplog.messages == ["stream s: max_bytes: 100000 -> 200000"]


async def test_what_cannot_be_updated_is_refused(flow: Flow, broker: MemoryBroker) -> None:
    with pytest.raises(DriftError, match="storage: file -> memory"):
        await Flow(broker, SPEC.model_copy(update={"storage": "memory"})).manager.apply()


async def test_a_consumer_of_a_removed_node_is_told_of_when_it_holds_messages_back(
    flow: Flow, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await flow.store("s.clean", 3)
    smaller = SPEC.model_copy(update={"consumers": SPEC.consumers[:1]})

    await Flow(broker, smaller).manager.apply()

    assert [getattr(record, "action", "") for record in caplog.records] == ["drift"]
    assert "score__clean belongs to no node of this workflow and holds back 3 messages" in caplog.text


class RecordingBus(MemoryBus):
    """Notes the order in which things are made."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.made: list[str] = []

    async def key_value(self, bucket: str, **options: Any) -> MemoryKeyValue:
        self.made.append(bucket)
        return await super().key_value(bucket, **options)

    async def ensure_stream(self, config: StreamConfig) -> list[str]:
        self.made.append(config.name)
        return await super().ensure_stream(config)

    async def ensure_object_store(self, config: ObjectStoreConfig) -> list[str]:
        self.made.append(config.name)
        return await super().ensure_object_store(config)


async def test_a_running_workflow_gets_an_atomic_node_in_place(flow: Flow, caplog: pytest.LogCaptureFixture) -> None:
    await flow.manager.apply()
    caplog.set_level(logging.INFO)

    await Manager(flow.bus, SPEC.model_copy(update={"atomic": True}), FakeClock()).apply()

    assert [each.getMessage() for each in caplog.records] == ["stream s: atomic: False -> True"]


async def test_a_node_that_sees_the_stream_finds_everything_else(broker: MemoryBroker, clock: FakeClock) -> None:
    bus = RecordingBus(broker)

    await Manager(bus, with_pages(), clock).apply()

    assert bus.made == ["applied_s", "attempts_s", "config", "s_pages", "s_dlq", "s"]


def with_pages(**changes: float) -> ManagerSpec:
    store = ObjectStoreSpec(**{"name": "s_pages", "keep_s": 60, "max_bytes": 1000, **changes})
    return SPEC.model_copy(update={"object_stores": (store,)})


async def test_an_object_store_is_made_with_its_limits(broker: MemoryBroker, clock: FakeClock) -> None:
    flow = Flow(broker, with_pages())
    await flow.manager.apply()
    store = await flow.bus.object_store("s_pages")
    await store.put("page", b"x" * 1000)

    with pytest.raises(StreamFullError):
        await store.put("other", b"x")
    await clock.advance(59)
    young = await store.names()
    await clock.advance(1)

    assert (young, await store.names()) == (["page"], [])


async def test_every_change_of_an_object_store_is_a_line_of_the_log(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await Flow(broker, with_pages()).manager.apply()
    caplog.set_level(logging.INFO)

    await Flow(broker, with_pages(keep_s=0, max_bytes=2000)).manager.apply()

    assert caplog.messages == [
        "object store s_pages: max_bytes: 1000 -> 2000",
        "object store s_pages: max_age_s: 60.0 -> 0.0",
    ]


# --- configuration ---


async def value(flow: Flow) -> str:
    return (await (await flow.bus.key_value("config")).get("mode")).value.decode()


def with_mode(mode: str) -> ManagerSpec:
    return SPEC.model_copy(update={"buckets": {"config": {"mode": mode}}})


async def test_a_value_of_the_file_is_written(flow: Flow) -> None:
    assert await value(flow) == "fast"


async def test_a_value_set_while_the_workflow_ran_stays(flow: Flow) -> None:
    await (await flow.bus.key_value("config")).put("mode", b"slow")

    await flow.manager.apply()

    assert await value(flow) == "slow"


async def test_a_value_that_the_file_changed_is_written_over_it(flow: Flow, broker: MemoryBroker) -> None:
    await (await flow.bus.key_value("config")).put("mode", b"slow")

    await Flow(broker, with_mode("careful")).manager.apply()

    assert await value(flow) == "careful"


async def test_a_value_that_was_removed_is_written_again(flow: Flow) -> None:
    await (await flow.bus.key_value("config")).delete("mode")

    await flow.manager.apply()

    assert await value(flow) == "fast"


async def test_values_are_not_logged(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    await Flow(broker, with_mode("secret-ish")).manager.apply()

    assert "config/mode" in caplog.text
    assert "secret-ish" not in caplog.text


# --- retention ---


async def test_what_is_handled_and_older_than_keep_is_purged(flow: Flow, clock: FakeClock) -> None:
    await flow.store("s.entrypoint", 3)
    await clock.advance(KEEP_S)
    await flow.store("s.entrypoint", 2)
    await handle(await flow.reader("clean__entrypoint"), 5)

    purged = await flow.manager.look()

    assert (purged, await flow.first()) == (3, 4)


async def test_what_is_handled_but_young_stays_readable(flow: Flow, clock: FakeClock) -> None:
    await flow.store("s.entrypoint", 3)
    await handle(await flow.reader("clean__entrypoint"), 3)
    await clock.advance(KEEP_S - 1)

    assert await flow.manager.look() == 0
    assert (await flow.bus.get_message("s", 1)).subject == "s.entrypoint"


async def test_what_one_consumer_has_not_acknowledged_stays_whatever_its_age(flow: Flow, clock: FakeClock) -> None:
    await flow.store("s.entrypoint", 2)
    await flow.store("s.clean", 2)
    await handle(await flow.reader("clean__entrypoint"), 2)
    slow = await flow.reader("score__clean")
    await handle(slow, 1)
    in_hand = await slow.take()
    await clock.advance(10 * KEEP_S)

    await flow.manager.look()

    assert (in_hand.sequence, await flow.first()) == (4, 4)


async def test_a_consumer_of_somebody_else_counts_too(flow: Flow, clock: FakeClock) -> None:
    await flow.bus.ensure_consumer(ConsumerConfig(stream="s", durable="audit", filter_subjects=("s.>",)))
    await flow.store("s.entrypoint", 3)
    await handle(await flow.reader("clean__entrypoint"), 3)
    await clock.advance(10 * KEEP_S)

    assert await flow.manager.look() == 0


async def test_a_stream_that_is_more_than_half_full_loses_history_before_its_time(flow: Flow) -> None:
    await flow.store("s.entrypoint", 80, size_bytes=1000)
    await handle(await flow.reader("clean__entrypoint"), 80)

    await flow.manager.look()

    state = await flow.bus.stream_state("s")
    assert 40_000 < state.size_bytes <= 50_000
    assert state.last_sequence == 80


async def test_a_full_stream_keeps_what_is_not_handled(flow: Flow) -> None:
    await flow.store("s.entrypoint", 80, size_bytes=1000)
    await handle(await flow.reader("clean__entrypoint"), 10)

    purged = await flow.manager.look()

    assert (purged, await flow.first()) == (10, 11)


async def test_gaps_do_not_disturb_the_search(flow: Flow, clock: FakeClock) -> None:
    await flow.store("s.entrypoint", 9)
    await clock.advance(KEEP_S)
    await flow.store("s.entrypoint", 3)
    await handle(await flow.reader("clean__entrypoint"), 12)
    for sequence in (1, 5, 6, 7, 10):
        await flow.bus.delete_message("s", sequence)

    await flow.manager.look()

    assert await flow.first() == 11


async def test_an_empty_stream_is_left_alone(flow: Flow) -> None:
    assert await flow.manager.look() == 0


async def test_with_keep_zero_everything_handled_goes(broker: MemoryBroker) -> None:
    flow = Flow(broker, SPEC.model_copy(update={"keep_s": 0.0}))
    await flow.manager.apply()
    await flow.store("s.entrypoint", 3)
    await handle(await flow.reader("clean__entrypoint"), 2)

    await flow.manager.look()

    assert await flow.first() == 3


async def test_nothing_is_purged_under_a_consumer_that_is_gone(
    flow: Flow, clock: FakeClock, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await flow.store("s.entrypoint", 3)
    broker.delete_consumer("s", "clean__entrypoint")
    await clock.advance(10 * KEEP_S)

    purged = await flow.manager.look() + await flow.manager.look()

    assert purged == 0
    await handle(await flow.reader("clean__entrypoint"), 3)
    assert "consumer clean__entrypoint is gone; it is made anew" in caplog.text


@pytest.mark.parametrize("jump_s", [-86_400, 86_400], ids=["back", "forward"])
async def test_a_jump_of_the_wall_clock_purges_nothing_that_is_not_handled(
    flow: Flow, clock: FakeClock, jump_s: float
) -> None:
    await flow.store("s.entrypoint", 5)
    await handle(await flow.reader("clean__entrypoint"), 3)

    clock.jump(jump_s)
    await flow.manager.look()

    assert await flow.first() <= 4


# --- the loop ---


@pytest.fixture
async def running(flow: Flow) -> AsyncIterator[Flow]:
    task = asyncio.create_task(flow.manager.run(), name="manager")
    await settle()
    yield flow
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_loop_purges_in_time(running: Flow, clock: FakeClock) -> None:
    await running.store("s.entrypoint")
    await handle(await running.reader("clean__entrypoint"), 1)

    await clock.advance(KEEP_S + LOOK_EVERY_S)

    assert await running.first() == 2


async def test_a_stream_about_to_refuse_is_looked_at_more_often(running: Flow, clock: FakeClock) -> None:
    await running.store("s.entrypoint", 80, size_bytes=1000)
    await clock.advance(LOOK_EVERY_S)
    await handle(await running.reader("clean__entrypoint"), 80)

    await clock.advance(LOOK_WHEN_PRESSED_S)

    assert await running.first() > 1


async def test_a_stream_that_was_pressed_is_looked_at_often_for_a_while(running: Flow, clock: FakeClock) -> None:
    await running.store("s.entrypoint", 80, size_bytes=1000)
    await clock.advance(LOOK_EVERY_S)
    await handle(await running.reader("clean__entrypoint"), 80)
    await clock.advance(2 * LOOK_WHEN_PRESSED_S)  # purged to its share, and seen with room again

    first = await running.first()
    await running.store("s.entrypoint", 40, size_bytes=1000)
    await handle(await running.reader("clean__entrypoint"), 40)
    await clock.advance(LOOK_WHEN_PRESSED_S)

    assert await running.first() > first


async def test_who_holds_up_a_full_stream_is_told_once_and_its_relief_too(
    running: Flow, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await running.store("s.entrypoint", 80, size_bytes=1000)
    await clock.advance(3 * LOOK_EVERY_S)
    await handle(await running.reader("clean__entrypoint"), 80)

    await clock.advance(LOOK_EVERY_S)

    assert [getattr(record, "action", "") for record in caplog.records] == ["pressed", "relieved"]
    assert "clean__entrypoint is furthest behind: 80 waiting, 0 in hand" in caplog.messages[0]


async def test_an_outage_is_waited_out_and_not_told_here(
    running: Flow, clock: FakeClock, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await running.store("s.entrypoint")
    await handle(await running.reader("clean__entrypoint"), 1)
    broker.pause()
    await clock.advance(5 * LOOK_EVERY_S)

    broker.resume()
    await clock.advance(KEEP_S + LOOK_EVERY_S)

    assert await running.first() == 2
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


async def test_a_stream_that_cannot_be_read_though_nats_is_there_is_told_once(
    running: Flow, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(stream: str) -> None:
        raise BusUnavailableError("no leader")

    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(running.bus, "stream_state", refuse)

    await clock.advance(5 * LOOK_EVERY_S)

    assert caplog.messages == ["the stream cannot be looked after: no leader"]
