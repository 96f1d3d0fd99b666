"""Buckets: values, revisions and compare-and-set."""

import asyncio

import pytest

from runtime.bus.base import Bus, Entry, KeyValue
from runtime.errors import BusError, NotFoundError, RevisionError
from test.conformance.bus.backends import SILENCE_S, Backend, eventually
from test.support.waiting import until


@pytest.fixture
async def bucket(bus: Bus) -> KeyValue:
    return await bus.key_value("settings", create=True)


async def test_a_missing_bucket_is_made_only_on_request(bus: Bus) -> None:
    with pytest.raises(NotFoundError):
        await bus.key_value("settings")

    await bus.key_value("settings", create=True)

    assert await (await bus.key_value("settings")).keys() == []


async def test_connections_share_a_bucket(backend: Backend, bucket: KeyValue) -> None:
    revision = await bucket.put("colour", b"red")

    other = await (await backend.connect()).key_value("settings", create=True)

    assert await other.get("colour") == Entry("colour", b"red", revision)


async def test_buckets_are_apart(bus: Bus, bucket: KeyValue) -> None:
    other = await bus.key_value("others", create=True)
    await bucket.put("colour", b"red")

    with pytest.raises(NotFoundError):
        await other.get("colour")


async def test_put_replaces_and_revisions_grow(bucket: KeyValue) -> None:
    first = await bucket.put("colour", b"red")
    other = await bucket.put("size", b"")

    second = await bucket.put("colour", b"blue")

    assert first < other < second
    assert await bucket.get("colour") == Entry("colour", b"blue", second)
    assert await bucket.get("size") == Entry("size", b"", other)


async def test_create_writes_only_a_missing_key(bucket: KeyValue) -> None:
    revision = await bucket.create("colour", b"red")

    with pytest.raises(RevisionError):
        await bucket.create("colour", b"blue")

    assert await bucket.get("colour") == Entry("colour", b"red", revision)


async def test_create_writes_a_deleted_key(bucket: KeyValue) -> None:
    first = await bucket.create("colour", b"red")
    await bucket.delete("colour")

    second = await bucket.create("colour", b"blue")

    assert second > first
    assert await bucket.get("colour") == Entry("colour", b"blue", second)


async def test_update_writes_only_over_its_revision(bucket: KeyValue) -> None:
    first = await bucket.put("colour", b"red")
    second = await bucket.update("colour", b"blue", first)

    with pytest.raises(RevisionError):
        await bucket.update("colour", b"green", first)

    assert await bucket.get("colour") == Entry("colour", b"blue", second)


async def test_update_of_a_missing_key_fails(bucket: KeyValue) -> None:
    with pytest.raises(RevisionError):
        await bucket.update("colour", b"green", 7)

    assert await bucket.keys() == []


async def test_of_many_writers_over_one_revision_exactly_one_wins(bucket: KeyValue) -> None:
    revision = await bucket.put("leader", b"nobody")

    ends = await asyncio.gather(
        *(bucket.update("leader", b"%d" % number, revision) for number in range(10)), return_exceptions=True
    )

    assert len([end for end in ends if isinstance(end, RevisionError)]) == 9
    [winner] = [number for number, end in enumerate(ends) if isinstance(end, int)]
    assert (await bucket.get("leader")).value == b"%d" % winner


async def test_a_deleted_key_is_missing_and_deleting_again_is_no_error(bucket: KeyValue) -> None:
    await bucket.put("colour", b"red")

    await bucket.delete("colour")
    await bucket.delete("colour")
    await bucket.delete("never-there")

    with pytest.raises(NotFoundError):
        await bucket.get("colour")
    assert await bucket.keys() == []


async def test_keys_are_sorted_and_only_those_with_a_value(bucket: KeyValue) -> None:
    for key in ("b", "a.x", "c/d=e_f-g", "gone"):
        await bucket.put(key, b"1")
    await bucket.delete("gone")

    assert await bucket.keys() == ["a.x", "b", "c/d=e_f-g"]


@pytest.mark.parametrize("key", ["", ".a", "a.", "a b", "ä", "a*", "a>"])
async def test_a_key_that_nats_would_not_take_is_refused(bucket: KeyValue, key: str) -> None:
    with pytest.raises(BusError):
        await bucket.put(key, b"1")

    assert await bucket.keys() == []


async def test_every_bucket_is_listed(bus: Bus) -> None:
    await bus.key_value("b", create=True)
    await bus.key_value("a", create=True)

    assert await bus.buckets() == ["a", "b"]


async def test_a_deleted_bucket_is_gone_with_its_values(bus: Bus, bucket: KeyValue) -> None:
    await bucket.put("colour", b"red")

    await bus.delete_bucket("settings")

    assert await bus.buckets() == []
    assert await (await bus.key_value("settings", create=True)).keys() == []


async def test_a_missing_bucket_cannot_be_deleted(bus: Bus) -> None:
    with pytest.raises(NotFoundError):
        await bus.delete_bucket("settings")


async def test_a_watch_tells_what_is_there_and_then_every_change(backend: Backend, bucket: KeyValue) -> None:
    await bucket.put("a.colour", b"red")
    gone = await bucket.put("a.gone", b"1")
    await bucket.put("b.colour", b"grey")
    told = Told()

    watch = await bucket.watch("a.>", told)

    assert told.entries == {"a.colour": b"red", "a.gone": b"1"}
    other = await (await backend.connect()).key_value("settings")
    revision = await other.put("a.colour", b"blue")
    await other.put("b.colour", b"black")
    await other.delete("a.gone")
    await until(lambda: len(told.changes) == 4)
    assert told.changes[2:] == [("a.colour", Entry("a.colour", b"blue", revision)), ("a.gone", None)]
    assert revision > gone
    await watch.unsubscribe()


async def test_a_watch_of_nothing_begins_at_once_and_a_star_is_one_token(bucket: KeyValue) -> None:
    told = Told()

    watch = await bucket.watch("*.now", told)
    await bucket.put("a.b.now", b"1")
    await bucket.put("a.now", b"2")

    await until(lambda: told.entries == {"a.now": b"2"})
    await watch.unsubscribe()


async def test_a_watch_that_has_ended_is_told_nothing(bucket: KeyValue) -> None:
    ended, going = Told(), Told()
    watch = await bucket.watch(">", ended)
    goes_on = await bucket.watch(">", going)

    await watch.unsubscribe()
    await bucket.put("colour", b"red")

    await until(lambda: going.entries == {"colour": b"red"})
    assert ended.changes == []
    await goes_on.unsubscribe()


async def test_a_snapshot_of_many_entries_is_whole(bucket: KeyValue) -> None:
    for number in range(1_000):
        await bucket.put(f"model.{number}", b"%d" % number)
    told = Told()

    watch = await bucket.watch("model.*", told)

    assert told.entries == {f"model.{number}": b"%d" % number for number in range(1_000)}
    await watch.unsubscribe()


async def test_entries_expire_unless_they_are_written_again(bus: Bus) -> None:
    bucket = await bus.expiring_key_value("presence", ttl_s=1.0)
    await bucket.put("leaves", b"1")
    revision = await bucket.put("stays", b"1")
    told = Told()
    watch = await bucket.watch(">", told)

    async def keys_after_a_beat() -> list[str]:
        nonlocal revision
        revision = await bucket.put("stays", b"1")
        return await bucket.keys()

    await eventually(keys_after_a_beat, ["stays"])
    with pytest.raises(NotFoundError):
        await bucket.get("leaves")
    assert [change for change in told.changes if change[0] == "leaves"] == [("leaves", Entry("leaves", b"1", 1))]
    assert await bucket.create("leaves", b"2") > revision
    await watch.unsubscribe()


async def test_an_expiring_bucket_is_there_for_whoever_opens_it_next(backend: Backend, bus: Bus) -> None:
    first = await bus.expiring_key_value("presence", ttl_s=60.0)
    await first.put("a", b"1")

    second = await (await backend.connect()).expiring_key_value("presence", ttl_s=60.0)

    assert await second.keys() == ["a"]
    assert (await (await backend.connect()).key_value("presence")) is not None


class Told:
    """Keeps what a watch tells."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Entry | None]] = []

    def __call__(self, key: str, entry: Entry | None) -> None:
        self.changes.append((key, entry))

    @property
    def entries(self) -> dict[str, bytes]:
        """What the watcher holds now."""
        held = dict(self.changes)
        return {key: entry.value for key, entry in held.items() if entry is not None}


async def is_there(bucket: KeyValue, key: str) -> bool:
    """Ask for the key itself: a list of keys may miss one that is about to go."""
    try:
        await bucket.get(key)
    except NotFoundError:
        return False
    return True


async def test_an_entry_lives_for_the_time_of_its_bucket_after_its_last_write(bus: Bus) -> None:
    bucket = await bus.key_value("brief", create=True, ttl_s=0.2)
    await bucket.put("colour", b"red")
    kept = await (await bus.key_value("settings", create=True)).put("colour", b"blue")

    await eventually(lambda: is_there(bucket, "colour"), False)

    with pytest.raises(RevisionError):
        await bucket.update("colour", b"green", kept)
    await bucket.create("colour", b"green")
    assert await (await bus.key_value("settings")).keys() == ["colour"]


async def test_the_time_to_live_of_a_bucket_is_changed_only_on_request(bus: Bus) -> None:
    await bus.key_value("settings", create=True, ttl_s=0.2)
    bucket = await bus.key_value("settings", create=True)
    await bucket.put("colour", b"red")
    await eventually(bucket.keys, list[str]())

    await bus.key_value("settings", create=True, ttl_s=3600.0)
    await bucket.put("colour", b"blue")
    await (await bus.key_value("settings", create=True)).put("size", b"1")

    await asyncio.sleep(SILENCE_S * 2)
    assert await bucket.keys() == ["colour", "size"]
