"""Streams and consumers: creating, updating, drift, purging, and what their states say."""

import pytest

from runtime.bus.base import Bus, ConsumerState, StreamConfig
from runtime.errors import BusError, DriftError, NotFoundError
from test.conformance.bus.backends import (
    DURABLE,
    STREAM,
    consumer,
    eventually,
    expect_silence,
    settled,
    started_reader,
    store,
    stream,
    take,
    take_texts,
)


async def consumer_state(bus: Bus) -> ConsumerState:
    [state] = await bus.consumer_states(STREAM)
    return state


async def test_the_same_stream_again_changes_nothing(bus: Bus) -> None:
    created = await bus.ensure_stream(stream())

    again = await bus.ensure_stream(stream())

    assert created == [f"stream {STREAM}: created"]
    assert again == []


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_stream_of_either_storage_can_be_made(bus: Bus, storage: str) -> None:
    config = stream(storage=storage, max_bytes=10_000_000, max_age_s=3600.0, duplicate_window_s=60.0)

    await bus.ensure_stream(config)

    assert await bus.ensure_stream(config) == []


async def test_durations_that_nanoseconds_cut_off_are_no_drift(bus: Bus) -> None:
    config = stream(duplicate_window_s=1044.6, max_age_s=2000.3)

    await bus.ensure_stream(config)

    assert await bus.ensure_stream(config) == []


async def test_a_changed_stream_is_updated_and_each_field_is_told(orders: Bus) -> None:
    await orders.ensure_stream(stream(max_bytes=10_000))
    await store(orders, "kept")

    changes = await orders.ensure_stream(stream(max_bytes=20_000, duplicate_window_s=60.0))

    assert [line.split(": ", 1)[1].split(":")[0].removesuffix("_s") for line in changes] == [
        "max_bytes",
        "duplicate_window",
    ]
    assert changes[0].endswith("max_bytes: 10000 -> 20000")
    assert changes[1].endswith(": 120.0 -> 60.0")
    assert (await orders.stream_state(STREAM)).messages == 1


async def test_the_metadata_of_a_stream_is_told_with_its_state_and_can_be_changed(orders: Bus) -> None:
    assert (await orders.stream_state(STREAM)).metadata == {}

    [change] = await orders.ensure_stream(stream(metadata={"krt-entrypoint": "16"}))

    assert "metadata" in change
    assert (await orders.stream_state(STREAM)).metadata == {"krt-entrypoint": "16"}
    assert await orders.ensure_stream(stream(metadata={"krt-entrypoint": "16"})) == []
    assert len(await orders.ensure_stream(stream())) == 1
    assert (await orders.stream_state(STREAM)).metadata == {}


async def test_a_storage_that_differs_is_drift_and_nothing_is_changed(orders: Bus) -> None:
    await store(orders, "kept")

    with pytest.raises(DriftError, match="storage: memory -> file"):
        await orders.ensure_stream(stream(storage="file", max_bytes=10_000))

    assert await orders.ensure_stream(stream()) == []
    assert (await orders.stream_state(STREAM)).messages == 1


async def test_two_streams_cannot_share_a_subject(orders: Bus) -> None:
    with pytest.raises(BusError):
        await orders.ensure_stream(StreamConfig(name="others", subjects=("*.new",), storage="memory"))

    with pytest.raises(NotFoundError):
        await orders.stream_state("others")


async def test_what_does_not_exist_is_not_found(orders: Bus) -> None:
    with pytest.raises(NotFoundError):
        await orders.stream_state("missing")
    with pytest.raises(NotFoundError):
        await orders.consumer_states("missing")
    with pytest.raises(NotFoundError):
        await orders.ensure_consumer(consumer(stream="missing"))
    with pytest.raises(NotFoundError):
        await orders.get_message("missing", 1)
    with pytest.raises(NotFoundError):
        await orders.get_message(STREAM, 1)
    with pytest.raises(NotFoundError):
        await orders.purge("missing", below=1)
    with pytest.raises(NotFoundError):
        await orders.delete_message("missing", 1)
    with pytest.raises(NotFoundError):
        await orders.delete_message(STREAM, 1)


async def test_an_empty_stream_has_its_first_sequence_behind_its_last(orders: Bus) -> None:
    state = await orders.stream_state(STREAM)

    assert (state.messages, state.size_bytes, state.first_sequence, state.last_sequence) == (0, 0, 1, 0)
    assert dict(state.subjects) == {}
    assert state.patterns == (f"{STREAM}.>",)


async def test_a_stream_state_counts_messages_and_subjects(orders: Bus) -> None:
    await store(orders, "a", "b", subject=f"{STREAM}.x")
    await store(orders, "c", subject=f"{STREAM}.y")

    state = await orders.stream_state(STREAM)

    assert (state.messages, state.first_sequence, state.last_sequence) == (3, 1, 3)
    assert dict(state.subjects) == {f"{STREAM}.x": 2, f"{STREAM}.y": 1}
    assert state.size_bytes > 3 * len(f"{STREAM}.x")


async def test_purge_removes_only_what_lies_below(orders: Bus) -> None:
    await store(orders, "a", "b", "c", "d")

    purged = await orders.purge(STREAM, below=3)

    state = await orders.stream_state(STREAM)
    assert purged == 2
    assert (state.messages, state.first_sequence, state.last_sequence) == (2, 3, 4)
    assert (await orders.get_message(STREAM, 3)).data == b"c"
    with pytest.raises(NotFoundError):
        await orders.get_message(STREAM, 2)


async def test_purge_of_nothing_removes_nothing(orders: Bus) -> None:
    await store(orders, "a")

    assert await orders.purge(STREAM, below=1) == 0

    assert (await orders.stream_state(STREAM)).messages == 1


async def test_purge_of_everything_keeps_the_last_sequence(orders: Bus) -> None:
    await store(orders, "a", "b")

    assert await orders.purge(STREAM, below=3) == 2

    state = await orders.stream_state(STREAM)
    assert (state.messages, state.size_bytes, state.first_sequence, state.last_sequence) == (0, 0, 3, 2)
    await store(orders, "c")
    assert (await orders.get_message(STREAM, 3)).data == b"c"


async def test_purge_takes_messages_from_consumers_whatever_they_have_done(orders: Bus) -> None:
    reader = await started_reader(orders)
    await store(orders, "a", "b", "c", "d")
    reader.nak(await take(reader), 0.3)
    await eventually(lambda: settled(orders), (3, 1, 0))

    assert await orders.purge(STREAM, below=4) == 3

    await eventually(lambda: settled(orders), (1, 0, 3))
    assert await take_texts(reader, 1) == ["d"]
    await expect_silence(reader, 0.6)


@pytest.mark.parametrize("sequence", [1, 3, 100])
async def test_a_message_that_is_not_there_cannot_be_deleted(orders: Bus, sequence: int) -> None:
    await store(orders, "one", "two", "three")
    await orders.delete_message(STREAM, 1)
    await orders.delete_message(STREAM, 3)

    with pytest.raises(NotFoundError):
        await orders.delete_message(STREAM, sequence)


async def test_a_deleted_message_is_gone_for_readers_too(orders: Bus) -> None:
    await store(orders, "a", "b", "c")

    await orders.delete_message(STREAM, 2)

    state = await orders.stream_state(STREAM)
    assert (state.messages, state.first_sequence, state.last_sequence) == (2, 1, 3)
    with pytest.raises(NotFoundError):
        await orders.get_message(STREAM, 2)
    assert await take_texts(await started_reader(orders), 2) == ["a", "c"]


async def test_deleting_the_first_message_moves_the_first_sequence(orders: Bus) -> None:
    await store(orders, "a", "b", "c")
    await orders.delete_message(STREAM, 2)

    await orders.delete_message(STREAM, 1)

    assert (await orders.stream_state(STREAM)).first_sequence == 3


async def test_the_same_consumer_again_changes_nothing(orders: Bus) -> None:
    created = await orders.ensure_consumer(consumer())

    assert created == [f"consumer {DURABLE} of stream {STREAM}: created"]
    assert await orders.ensure_consumer(consumer()) == []


async def test_a_consumer_of_a_single_subject_or_of_several_can_be_updated_to_the_other(orders: Bus) -> None:
    await orders.ensure_consumer(consumer(filter_subjects=(f"{STREAM}.a",)))
    await store(orders, "a1", subject=f"{STREAM}.a")
    await store(orders, "b1", subject=f"{STREAM}.b")

    several = await orders.ensure_consumer(consumer(filter_subjects=(f"{STREAM}.a", f"{STREAM}.b")))

    assert len(several) == 1
    assert ": filter_subjects: " in several[0]
    reader = await started_reader(orders, filter_subjects=(f"{STREAM}.a", f"{STREAM}.b"))
    assert await take_texts(reader, 2) == ["a1", "b1"]
    assert len(await orders.ensure_consumer(consumer(filter_subjects=(f"{STREAM}.b",)))) == 1


async def test_a_changed_ack_limit_applies_to_what_comes(orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=5, max_ack_pending=1)
    await store(orders, "a", "b")
    first = await take(reader)
    await expect_silence(reader)

    [change] = await orders.ensure_consumer(consumer(max_ack_pending=2))

    assert change.endswith("max_ack_pending: 1 -> 2")
    assert (await take(reader)).data == b"b"
    reader.ack(first)


async def test_consumer_states_are_sorted_by_name(orders: Bus) -> None:
    for durable in ("c", "a", "b"):
        await orders.ensure_consumer(consumer(durable=durable))

    assert [state.name for state in await orders.consumer_states(STREAM)] == ["a", "b", "c"]


async def test_a_consumer_state_follows_every_step(orders: Bus) -> None:
    reader = await started_reader(orders)

    async def steps() -> tuple[int, int, int, int, int]:
        state = await consumer_state(orders)
        return state.pending, state.ack_pending, state.redelivered, state.ack_floor, state.delivered

    assert await steps() == (0, 0, 0, 0, 0)
    await store(orders, "a", "b")
    await eventually(steps, (2, 0, 0, 0, 0))
    first, second = await take(reader), await take(reader)
    await eventually(steps, (0, 2, 0, 0, 2))
    reader.ack(first)
    await eventually(steps, (0, 1, 0, 1, 2))
    reader.nak(second, 0.0)
    again = await take(reader)
    await eventually(steps, (0, 1, 1, 1, 2))
    await store(orders, "c")
    await eventually(steps, (1, 1, 1, 1, 2))
    reader.ack(again)
    await eventually(steps, (1, 0, 0, 2, 2))
    await take_texts(reader, 1)
    await eventually(steps, (0, 0, 0, 3, 3))


async def test_a_consumer_state_counts_only_what_its_filter_selects(orders: Bus) -> None:
    await orders.ensure_consumer(consumer(filter_subjects=(f"{STREAM}.a",)))

    await store(orders, "a1", "a2", subject=f"{STREAM}.a")
    await store(orders, "b1", subject=f"{STREAM}.b")

    assert (await consumer_state(orders)).pending == 2


async def test_a_waiting_taker_is_seen_at_the_consumer(orders: Bus) -> None:
    reader = await started_reader(orders, prefetch=1)

    async def waiting() -> int:
        return (await consumer_state(orders)).waiting

    await eventually(waiting, 1)
    await reader.drain()
    await eventually(waiting, 0)


async def test_a_deleted_stream_is_gone_with_its_messages_and_consumers(orders: Bus) -> None:
    await orders.ensure_consumer(consumer())
    await store(orders, "a")

    await orders.delete_stream(STREAM)

    with pytest.raises(NotFoundError):
        await orders.stream_state(STREAM)
    with pytest.raises(NotFoundError):
        await orders.delete_stream(STREAM)
    await orders.ensure_stream(stream())
    assert (await orders.stream_state(STREAM)).messages == 0
    assert await orders.consumer_states(STREAM) == []


async def test_a_deleted_consumer_is_gone_and_its_messages_stay(orders: Bus) -> None:
    await orders.ensure_consumer(consumer())
    await store(orders, "a")

    await orders.delete_consumer(STREAM, DURABLE)

    assert await orders.consumer_states(STREAM) == []
    assert (await orders.stream_state(STREAM)).messages == 1
    with pytest.raises(NotFoundError):
        await orders.delete_consumer(STREAM, DURABLE)
