"""What removed nodes have left: found by comparing, removed without losing a message."""

import asyncio

import pytest

from runtime.bus.base import ConsumerConfig, StreamConfig
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.deploy import leftovers
from runtime.deploy.manager import Manager
from runtime.errors import BusUnavailableError, ConfigError
from runtime.message import Message
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec, ObjectStoreSpec
from runtime.wire import encode

STREAM = "local_dev_flow"
DEAD = f"{STREAM}_dlq"
SPEC = ManagerSpec(
    stream=STREAM,
    subjects=(f"{STREAM}.>",),
    storage="memory",
    replicas=1,
    max_bytes=100_000,
    keep_s=60,
    duplicate_window_s=120,
    consumers=(ConsumerSpec(durable="clean__entrypoint", filter_subjects=(f"{STREAM}.entrypoint",)),),
    dead_letters=DeadLetterSpec(stream=DEAD, subjects=(f"{DEAD}.>",), keep_s=90),
    buckets={f"key-store_{STREAM}": {}, f"key-store_{STREAM}_clean": {}},
    applied_bucket=f"applied_{STREAM}",
)
REMOVED = "ocr__clean"


@pytest.fixture
async def bus() -> MemoryBus:
    """A workflow that once had a node ocr, which read what clean sends."""
    bus = MemoryBroker(SystemClock()).connect()
    await Manager(bus, SPEC, SystemClock()).apply()
    await bus.ensure_consumer(ConsumerConfig(stream=STREAM, durable=REMOVED, filter_subjects=(f"{STREAM}.clean",)))
    await bus.key_value(f"key-store_{STREAM}_ocr", create=True)
    return bus


async def store(bus: MemoryBus, *request_ids: str) -> None:
    publisher = bus.publisher(STREAM)
    for request_id in request_ids:
        body = encode(Message(request_id=request_id))
        await publisher.publish(f"{STREAM}.clean", body, message_id=request_id, confirm=print)
    await publisher.flush()


async def test_all_of_a_workflow_is_found_by_its_stream_and_nothing_of_its_namesakes() -> None:
    broker = MemoryBroker(SystemClock())
    bus = broker.connect()
    for stream in ("local_dev_flow", "local_dev_flow-2", "local_dev_flow2", "local_de_flow", "local_dev_dlq"):
        await have_everything(bus, stream)
    await bus.ensure_object_store(ObjectStoreConfig(name="local_dev_flow"))
    for bucket in ("key-store_local_dev", "presence", "quarantine_flow"):
        await bus.key_value(bucket, create=True)

    found = await leftovers.find_all(bus, "local_dev_flow")

    assert [state.name for state in found.consumers] == ["clean__entrypoint", "http_events_sink"]
    assert found.buckets == (
        "applied_local_dev_flow",
        "attempts_local_dev_flow",
        "key-store_local_dev_flow",
        "key-store_local_dev_flow_clean",
    )
    assert found.data_buckets == (
        "join_local_dev_flow_clean",
        "positions_local_dev_flow",
        "runs_local_dev_flow",
        "state_local_dev_flow_clean",
        "tasks_local_dev_flow",
    )
    assert found.object_stores == ("local_dev_flow_claims", "local_dev_flow_dlq_claims", "local_dev_flow_pages")
    assert found.streams == ("local_dev_flow_dlq", "local_dev_flow")


async def have_everything(bus: MemoryBus, stream: str) -> None:
    """Make all that a workflow can have."""
    for name in (stream, f"{stream}_dlq"):
        await bus.ensure_stream(StreamConfig(name=name, subjects=(f"{name}.>",)))
    for durable in ("clean__entrypoint", "http_events_sink"):
        await bus.ensure_consumer(ConsumerConfig(stream=stream, durable=durable, filter_subjects=(f"{stream}.>",)))
    for kind in ("applied", "attempts", "key-store", "tasks", "runs", "positions"):
        await bus.key_value(f"{kind}_{stream}", create=True)
    for kind in ("key-store", "state", "join"):
        await bus.key_value(f"{kind}_{stream}_clean", create=True)
    for store in ("claims", "dlq_claims", "pages"):
        await bus.ensure_object_store(ObjectStoreConfig(name=f"{stream}_{store}"))


async def test_what_is_left_of_a_workflow_without_its_streams_is_found(bus: MemoryBus) -> None:
    for stream in (STREAM, DEAD):
        await bus.delete_stream(stream)

    found = await leftovers.find_all(bus, STREAM)

    assert (found.consumers, found.streams, len(found.buckets)) == ((), (), 4)


@pytest.mark.parametrize("stream", ["local_dev", "local_dev_flow_clean", "", "local__flow", "presence"])
async def test_a_name_that_is_no_workflows_stream_is_refused(bus: MemoryBus, stream: str) -> None:
    with pytest.raises(ConfigError, match="is no stream of a workflow"):
        await leftovers.find_all(bus, stream)


async def consumers(bus: MemoryBus) -> list[str]:
    return [state.name for state in await bus.consumer_states(STREAM)]


async def test_what_the_workflow_has_not_is_left_over(bus: MemoryBus) -> None:
    await store(bus, "r1", "r2")

    found = await leftovers.find(bus, SPEC)

    assert [(state.name, leftovers.unhandled(state)) for state in found.consumers] == [(REMOVED, 2)]
    assert found.buckets == (f"key-store_{STREAM}_ocr",)


async def test_what_belongs_to_others_is_not_left_over(bus: MemoryBus) -> None:
    await bus.ensure_consumer(ConsumerConfig(stream=STREAM, durable="audit", filter_subjects=(f"{STREAM}.>",)))
    await bus.key_value("key-store_local_dev_flow-2_ocr", create=True)
    await bus.key_value("key-store_local_dev", create=True)

    found = await leftovers.find(bus, SPEC)

    assert [state.name for state in found.consumers] == [REMOVED]
    assert found.buckets == (f"key-store_{STREAM}_ocr",)


async def test_the_data_of_removed_nodes_stands_apart(bus: MemoryBus) -> None:
    spec = SPEC.model_copy(
        update={
            "aging_buckets": {f"state_{STREAM}_clean": 0.0},
            "object_stores": (ObjectStoreSpec(name=f"{STREAM}_pages", keep_s=0, max_bytes=0),),
        }
    )
    await Manager(bus, spec, SystemClock()).apply()
    left = (f"join_{STREAM}_ocr", f"runs_{STREAM}", f"state_{STREAM}_ocr")
    of_others = (f"state_{STREAM}-2_ocr", f"runs_{STREAM}-2", f"tasks_{STREAM}", "state_prod_dev_flow_ocr")
    for bucket in (*left, *of_others):
        await bus.key_value(bucket, create=True)
    for store in (f"{STREAM}_scans", f"{STREAM}-2_scans", "local_dev_scans"):
        await bus.ensure_object_store(ObjectStoreConfig(name=store, storage="memory"))

    found = await leftovers.find(bus, spec)

    assert found.buckets == (f"key-store_{STREAM}_ocr",)
    assert found.data_buckets == left
    assert found.object_stores == (f"{STREAM}_scans",)
    assert found.has_data


async def test_what_a_removed_node_has_not_handled_becomes_dead_letters(bus: MemoryBus) -> None:
    await store(bus, "r1", "r2")

    dropped = await leftovers.remove_consumer(bus, SPEC, REMOVED)

    assert dropped == 2
    assert await consumers(bus) == ["clean__entrypoint"]
    message = await bus.get_message(DEAD, 2)
    letter = DeadLetter.from_header(message.headers[HEADER])
    assert (message.subject, message.data) == (f"{DEAD}.ocr", encode(Message(request_id="r2")))
    assert (letter.reason, letter.request_id, letter.sequence) == ("dropped", "r2", 2)


async def test_a_removed_node_that_has_handled_everything_just_goes(bus: MemoryBus) -> None:
    assert await leftovers.remove_consumer(bus, SPEC, REMOVED) == 0

    assert await consumers(bus) == ["clean__entrypoint"]
    assert (await bus.stream_state(DEAD)).messages == 0


async def test_a_workflow_that_keeps_no_dead_letters_drops_what_is_unhandled(bus: MemoryBus) -> None:
    await store(bus, "r1")

    dropped = await leftovers.remove_consumer(bus, SPEC.model_copy(update={"dead_letters": None}), REMOVED)

    assert dropped == 1
    assert (await bus.stream_state(DEAD)).messages == 0


async def test_messages_in_another_hand_are_waited_for(bus: MemoryBus) -> None:
    await store(bus, "r1")
    other = bus.reader(ConsumerConfig(stream=STREAM, durable=REMOVED, filter_subjects=()), create=False)
    await other.start()
    delivery = await other.take()
    removing = asyncio.create_task(leftovers.remove_consumer(bus, SPEC, REMOVED), name="remove")
    await settle()

    other.ack(delivery)

    assert await asyncio.wait_for(removing, 5.0) == 0
    assert await consumers(bus) == ["clean__entrypoint"]


async def test_messages_that_stay_in_another_hand_keep_their_consumer(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "PATIENCE_S", 0.3)
    await store(bus, "r1")
    other = bus.reader(ConsumerConfig(stream=STREAM, durable=REMOVED, filter_subjects=()), create=False)
    await other.start()
    await other.take()

    with pytest.raises(BusUnavailableError, match="messages in work after"):
        await leftovers.remove_consumer(bus, SPEC, REMOVED)

    assert REMOVED in await consumers(bus)
