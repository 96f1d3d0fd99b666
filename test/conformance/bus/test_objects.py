"""Object stores: whole and in chunks, what a reader sees of a writer, limits, and objects that are not what was put."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from runtime.bus.base import Bus
from runtime.bus.object_store import ObjectInfo, ObjectStore, ObjectStoreConfig
from runtime.errors import (
    BusClosedError,
    BusError,
    CorruptObjectError,
    DriftError,
    NotFoundError,
    RevisionError,
    StreamFullError,
)
from test.conformance.bus.backends import Backend, soon

STORE = "pages"
KIB = 1024
# More than one transfer stores at once, and no multiple of a chunk.
LARGE = bytes(range(256)) * (12 * KIB) + b"end"
# Nanoseconds by which two readings of one time may differ, which is a float on one way.
CLOCK_STEP_NS = 10_000
HOUR_NS = 3600 * 10**9


@pytest.fixture
async def store(bus: Bus) -> ObjectStore:
    await bus.ensure_object_store(ObjectStoreConfig(name=STORE, storage="memory"))
    return await bus.object_store(STORE)


async def in_chunks(data: bytes, size_bytes: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]


async def read(store: ObjectStore, name: str) -> bytes:
    return b"".join([chunk async for chunk in store.get_stream(name)])


@pytest.mark.parametrize("data", [b"", b"x", b"c" * 128 * KIB, LARGE], ids=["nothing", "a byte", "a chunk", "3 MiB"])
async def test_what_was_put_is_got(store: ObjectStore, data: bytes) -> None:
    await store.put("page", data)

    assert await soon(store.get("page")) == data
    assert await soon(read(store, "page")) == data


@pytest.mark.parametrize("size_bytes", [1, 1000, 128 * KIB, len(LARGE)])
async def test_chunks_of_any_size_make_the_same_object(store: ObjectStore, size_bytes: int) -> None:
    data = LARGE[: 3000 * size_bytes]

    await store.put_stream("page", in_chunks(data, size_bytes))

    assert hashlib.sha256(await soon(store.get("page"))).digest() == hashlib.sha256(data).digest()


async def test_empty_chunks_make_an_empty_object(store: ObjectStore) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""
        yield b""

    await store.put_stream("page", nothing())

    assert await store.get("page") == b""
    assert await store.names() == ["page"]


@pytest.mark.parametrize(
    "name", ["a", "with space", "a/b.c/../d", "*.>", "ünï→🙂", "line\nbreak", "$O.pages.C.x", "x" * 1024]
)
async def test_a_name_is_any_text(store: ObjectStore, name: str) -> None:
    await store.put(name, b"content")

    assert await store.names() == [name]
    assert await store.get(name) == b"content"


@pytest.mark.parametrize("name", ["", "x" * 1025, "ü" * 513, "\ud800"], ids=["none", "long", "long in UTF-8", "half"])
async def test_a_name_that_is_none_is_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(BusError, match="name"):
        await store.put(name, b"content")
    with pytest.raises(BusError, match="name"):
        await store.put_stream(name, in_chunks(b"content", 1))
    with pytest.raises(BusError, match="name"):
        await store.get(name)
    with pytest.raises(BusError, match="name"):
        await store.delete(name)


async def test_names_are_sorted_and_their_own(backend: Backend, store: ObjectStore) -> None:
    for name in ("b", "a/1", "c", "a"):
        await store.put(name, name.encode())

    other = await (await backend.connect()).object_store(STORE)

    assert await soon(other.names()) == ["a", "a/1", "b", "c"]
    assert [await other.get(name) for name in await other.names()] == [b"a", b"a/1", b"b", b"c"]


async def test_the_names_of_many_objects_are_complete(store: ObjectStore) -> None:
    expected = [f"page-{number:03}" for number in range(600)]
    await asyncio.gather(*(store.put(name, b"x") for name in expected))

    assert await soon(store.names()) == expected


async def test_names_are_told_while_objects_are_removed(store: ObjectStore) -> None:
    every = [f"page-{number:02}" for number in range(40)]
    for name in every:
        await store.put(name, b"x")

    async def remove() -> None:
        for name in every[:-1]:
            await store.delete(name)

    removing = asyncio.create_task(remove())
    seen: list[list[str]] = []
    while not removing.done():
        seen.append(await soon(store.names()))
        await asyncio.sleep(0)
    await removing

    assert await soon(store.names()) == every[-1:]
    assert [names for names in seen if names != sorted(set(names) & set(every)) or names[-1:] != every[-1:]] == []


async def test_an_object_is_described_without_its_bytes(store: ObjectStore) -> None:
    await store.put("large", LARGE)
    await store.put("empty", b"")
    await store.put("gone", b"gone")
    await store.delete("gone")

    told = await soon(store.describe_all())

    alone = await soon(store.describe("large"))
    large = ObjectInfo(name="large", size_bytes=len(LARGE), sha256=hashlib.sha256(LARGE).hexdigest(), stored_ns=0)
    empty = ObjectInfo(name="empty", size_bytes=0, sha256=hashlib.sha256(b"").hexdigest(), stored_ns=0)
    assert [replace(info, stored_ns=0) for info in told] == [empty, large]
    assert replace(alone, stored_ns=0) == large
    with pytest.raises(NotFoundError, match="gone"):
        await soon(store.describe("gone"))


async def test_it_is_told_when_an_object_was_put_last(store: ObjectStore) -> None:
    before_ns = time.time_ns() - CLOCK_STEP_NS
    await store.put("page", b"first")
    first = await soon(store.describe("page"))

    await store.put("page", b"second")
    second = await soon(store.describe("page"))

    assert before_ns <= first.stored_ns < second.stored_ns <= time.time_ns() + CLOCK_STEP_NS
    [told] = await soon(store.describe_all())
    assert abs(told.stored_ns - second.stored_ns) <= CLOCK_STEP_NS


async def test_the_size_of_a_store_is_told(store: ObjectStore) -> None:
    empty = await soon(store.size_bytes())
    await store.put("page", LARGE)
    full = await soon(store.size_bytes())
    await store.delete("page")

    assert empty == 0
    assert len(LARGE) <= full < 1.1 * len(LARGE)
    assert await soon(store.size_bytes()) == 0


async def test_what_a_dead_writer_has_left_is_discarded_and_nothing_else(backend: Backend, store: ObjectStore) -> None:
    await store.put("page", LARGE)
    kept = await store.size_bytes()
    left = await backend.leave_chunks(STORE, "left-behind")

    early = await soon(store.discard_unfinished(time.time_ns() - HOUR_NS))
    still = await backend.stored_bytes(STORE)
    late = await soon(store.discard_unfinished(time.time_ns() + HOUR_NS))

    assert (early, late) == (0, left)
    assert (still > kept) == (left > 0)
    assert await backend.stored_bytes(STORE) == kept
    assert await soon(store.get("page")) == LARGE


async def test_an_empty_store_has_no_names(store: ObjectStore) -> None:
    assert await soon(store.names()) == []


async def test_put_replaces_and_delete_removes(store: ObjectStore) -> None:
    await store.put("page", LARGE)
    await store.put("page", b"short")

    replaced = await store.get("page")
    await store.delete("page")

    assert replaced == b"short"
    assert await store.names() == []
    with pytest.raises(NotFoundError, match="pages has no object 'page'"):
        await store.get("page")
    with pytest.raises(NotFoundError, match="page"):
        await read(store, "page")
    with pytest.raises(NotFoundError, match="page"):
        await store.delete("page")


async def test_an_object_may_come_back_after_its_removal(store: ObjectStore) -> None:
    await store.put("page", b"first")
    await store.delete("page")

    await store.put("page", b"second")

    assert await store.get("page") == b"second"
    assert await store.names() == ["page"]


# --- writers and readers at once ---


async def test_of_concurrent_writers_one_wins_as_a_whole_and_nothing_else_stays(
    backend: Backend, store: ObjectStore
) -> None:
    stores = [await (await backend.connect()).object_store(STORE) for _ in range(4)]
    contents = [bytes([number]) * 300 * KIB for number in range(12)]

    writes = (stores[number % 4].put("page", content) for number, content in enumerate(contents))
    await soon(asyncio.gather(*writes))

    assert await store.get("page") in contents
    assert await soon(backend.stored_bytes(STORE)) < 310 * KIB


async def test_a_reader_gets_a_whole_object_while_it_is_replaced(store: ObjectStore) -> None:
    contents = [bytes([number]) * 300 * KIB for number in range(10)]
    await store.put("page", contents[0])

    async def replace() -> None:
        for content in contents:
            await store.put("page", content)

    writing = asyncio.create_task(replace())
    seen = []
    while not writing.done():
        seen.append(await soon(store.get("page")))
        await asyncio.sleep(0)

    assert await store.get("page") == contents[-1]
    assert [content for content in seen if content not in contents] == []


@pytest.mark.parametrize("change", ["replace", "delete"])
async def test_a_stream_whose_object_is_replaced_or_removed_says_so(store: ObjectStore, change: str) -> None:
    await store.put("page", LARGE)
    reading = store.get_stream("page")
    first = await anext(reading)

    await (store.put("page", b"new") if change == "replace" else store.delete("page"))

    assert LARGE.startswith(first)
    with pytest.raises(RevisionError, match="'page' was replaced or removed while it was read"):
        await anext(reading)


async def test_an_object_is_there_only_when_it_is_whole(backend: Backend, store: ObjectStore) -> None:
    await store.put("page", b"before")
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield LARGE
        begun.set()
        await go.wait()

    writing = asyncio.create_task(store.put_stream("page", slow()))
    await soon(begun.wait())
    meanwhile = await store.get("page")
    go.set()
    await soon(writing)

    assert meanwhile == b"before"
    assert await store.get("page") == LARGE


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
async def test_a_transfer_that_breaks_off_leaves_the_object_before_and_nothing_else(
    backend: Backend, store: ObjectStore, end: str
) -> None:
    await store.put("page", b"before")
    begun = asyncio.Event()

    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        begun.set()
        if end == "fails":
            raise ValueError("the source is gone")
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.put_stream("page", broken()))
    await soon(begun.wait())
    if end == "is cancelled":
        writing.cancel()

    with pytest.raises(ValueError if end == "fails" else asyncio.CancelledError):
        await soon(writing)
    assert await store.get("page") == b"before"
    assert await soon(backend.stored_bytes(STORE)) < KIB


async def test_a_stream_may_be_left_early(store: ObjectStore) -> None:
    await store.put("page", LARGE)

    async for chunk in store.get_stream("page"):
        first = chunk
        break

    assert LARGE.startswith(first)
    assert await store.get("page") == LARGE


# --- what is not what was put ---


async def test_other_bytes_than_those_put_are_never_an_object(backend: Backend, store: ObjectStore) -> None:
    await store.put("page", b"x" * 1000)

    await backend.corrupt_object(STORE, "page", b"\0" * 1000)

    with pytest.raises(CorruptObjectError, match=r"'page'.*its hash differs"):
        await store.get("page")
    with pytest.raises(CorruptObjectError):
        await read(store, "page")


# --- the store ---


async def test_a_store_that_is_missing_is_named(bus: Bus) -> None:
    with pytest.raises(NotFoundError, match="there is no object store pages"):
        await bus.object_store("pages")
    with pytest.raises(NotFoundError, match=r"there is no object store a\.b"):
        await bus.object_store("a.b")


async def test_every_store_is_listed(bus: Bus, store: ObjectStore) -> None:
    await bus.ensure_object_store(ObjectStoreConfig(name="audit", storage="memory"))
    await bus.key_value("settings", create=True)

    assert await bus.object_stores() == ["audit", STORE]


async def test_a_missing_store_cannot_be_deleted(bus: Bus) -> None:
    with pytest.raises(NotFoundError):
        await bus.delete_object_store("pages")


async def test_a_store_that_is_gone_is_named_by_everything(backend: Backend, store: ObjectStore) -> None:
    await store.put("page", b"content")

    await (await backend.connect()).delete_object_store(STORE)

    gone = "there is no object store pages"
    with pytest.raises(NotFoundError, match=gone):
        await store.get("page")
    with pytest.raises(NotFoundError, match=gone):
        await store.put("page", b"content")
    with pytest.raises(NotFoundError, match=gone):
        await store.put_stream("page", in_chunks(b"content", 1))
    with pytest.raises(NotFoundError, match=gone):
        await store.delete("page")
    with pytest.raises(NotFoundError, match=gone):
        await store.names()


async def test_a_full_store_refuses_keeps_what_it_has_and_has_room_after_a_removal(bus: Bus) -> None:
    await bus.ensure_object_store(ObjectStoreConfig(name="small", storage="memory", max_bytes=2000 * KIB))
    store = await bus.object_store("small")
    await store.put("page", b"1" * 1200 * KIB)

    with pytest.raises(StreamFullError, match="object store small is full"):
        await store.put("page", b"2" * 1200 * KIB)
    with pytest.raises(StreamFullError, match="object store small is full"):
        await store.put_stream("other", in_chunks(b"3" * 1200 * KIB, 64 * KIB))
    kept = await store.get("page")
    await store.delete("page")
    await store.put("page", b"4" * 1200 * KIB)

    assert kept == b"1" * 1200 * KIB
    assert await store.get("page") == b"4" * 1200 * KIB


async def test_a_store_is_made_once_and_each_change_is_told(bus: Bus) -> None:
    config = ObjectStoreConfig(name=STORE, storage="memory", max_bytes=2000)
    made = await bus.ensure_object_store(config)
    await (await bus.object_store(STORE)).put("page", b"content")

    again = await bus.ensure_object_store(config)
    changed = await bus.ensure_object_store(
        ObjectStoreConfig(name=STORE, storage="memory", max_bytes=4000, max_age_s=60.0)
    )

    assert made == ["object store pages: created"]
    assert again == []
    assert changed == ["object store pages: max_bytes: 2000 -> 4000", "object store pages: max_age_s: 0.0 -> 60.0"]
    assert await (await bus.object_store(STORE)).get("page") == b"content"


async def test_a_change_that_cannot_be_made_is_refused(bus: Bus, store: ObjectStore) -> None:
    with pytest.raises(DriftError, match=r"object store pages cannot be changed in place.*storage: memory -> file"):
        await bus.ensure_object_store(ObjectStoreConfig(name=STORE, storage="file"))


async def test_a_closed_connection_says_so_of_objects_too(bus: Bus, store: ObjectStore) -> None:
    await bus.close()

    with pytest.raises(BusClosedError):
        await store.get("page")
    with pytest.raises(BusClosedError):
        await store.put("page", b"content")
    with pytest.raises(BusClosedError):
        await store.names()
