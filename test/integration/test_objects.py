"""Object stores on a real nats-server: memory, restarts in mid-transfer, small servers, and other clients' objects."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.object_store import ObjectStore, ObjectStoreConfig
from runtime.bus.objects import NatsObjectStore
from runtime.errors import BusUnavailableError, RevisionError
from test.conformance.bus.backends import eventually

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 4096  # 1 MiB


async def connect(server: EmbeddedServer) -> NatsBus:
    return await NatsBus.connect([server.url], name="test", request_timeout_s=1.0)


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await connect(nats_server)
    yield bus
    await bus.close()


@pytest.fixture
async def store(bus: NatsBus) -> ObjectStore:
    await bus.ensure_object_store(ObjectStoreConfig(name="pages"))
    return await bus.object_store("pages")


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PIECE


async def test_a_large_object_never_lies_in_memory_as_a_whole(store: ObjectStore) -> None:
    size = 64
    tracemalloc.start()
    try:
        await store.put_stream("large", pieces(size))
        digest = hashlib.sha256()
        async for chunk in store.get_stream("large"):
            digest.update(chunk)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert digest.digest() == hashlib.sha256(PIECE * size).digest()
    assert peak_bytes < 16 * MIB


async def test_a_server_that_goes_in_mid_transfer_is_an_outage_and_the_next_transfer_works(
    store: ObjectStore, nats_server: EmbeddedServer
) -> None:
    await store.put("page", b"before")

    async def interrupted() -> AsyncIterator[bytes]:
        yield PIECE * 4
        await asyncio.to_thread(nats_server.stop_blocking)
        yield PIECE * 4

    with pytest.raises(BusUnavailableError, match="does not answer"):
        async with asyncio.timeout(20):
            await store.put_stream("page", interrupted())
    await asyncio.to_thread(nats_server.start_blocking)
    kept = await until_answered(store, "page")
    await store.put_stream("page", pieces(8))

    assert kept == b"before"
    assert await store.get("page") == PIECE * 8


async def test_reading_goes_on_after_a_short_restart(store: ObjectStore, nats_server: EmbeddedServer) -> None:
    await store.put_stream("page", pieces(8))
    read = bytearray()

    async for chunk in store.get_stream("page"):
        read += chunk
        if len(read) == 4 * MIB:
            await asyncio.to_thread(nats_server.stop_blocking)
            await asyncio.to_thread(nats_server.start_blocking)

    assert read == PIECE * 8


async def test_reading_from_a_server_that_stays_away_is_an_outage(
    store: ObjectStore, nats_server: EmbeddedServer
) -> None:
    await store.put_stream("page", pieces(2))
    reading = store.get_stream("page")
    await anext(reading)

    await asyncio.to_thread(nats_server.stop_blocking)

    with pytest.raises(BusUnavailableError, match="does not answer"):
        async with asyncio.timeout(20):
            await anext(reading)


async def test_chunks_fit_into_the_messages_of_a_small_server(start_nats_server: Callable[..., EmbeddedServer]) -> None:
    bus = await connect(start_nats_server(max_payload=4096))
    await bus.ensure_object_store(ObjectStoreConfig(name="pages"))
    store = await bus.object_store("pages")

    await store.put("page", PIECE[:50_000])

    assert await store.get("page") == PIECE[:50_000]
    await bus.close()


@pytest.mark.parametrize("times", [1, 100])
async def test_a_whole_object_is_read_anew_when_it_is_replaced_meanwhile_but_not_for_ever(
    store: ObjectStore, bus: NatsBus, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The writer comes between the description of the object and its chunks, `times` times."""
    await store.put("page", b"0")
    writer = await bus.object_store("pages")
    read, left = vars(NatsObjectStore)["_next_chunk"], list(range(times, 0, -1))

    async def overtaken(self: NatsObjectStore, nuid: str, sequence: int) -> Any:
        if left:
            await writer.put("page", b"%d" % left.pop())
        return await read(self, nuid, sequence)

    monkeypatch.setattr(NatsObjectStore, "_next_chunk", overtaken)

    if times == 1:
        assert await store.get("page") == b"1"
    else:
        with pytest.raises(RevisionError, match="'page' was replaced"):
            await store.get("page")


async def test_objects_expire(bus: NatsBus) -> None:
    await bus.ensure_object_store(ObjectStoreConfig(name="short", max_age_s=0.5))
    store = await bus.object_store("short")
    await store.put("page", b"content")
    before = await store.names()

    await eventually(store.names, list[str]())

    assert before == ["page"]


async def test_other_clients_read_and_write_the_same_objects(store: ObjectStore, nats_server: EmbeddedServer) -> None:
    client = await nats.connect(nats_server.url)
    theirs = await client.jetstream().object_store("pages")

    await store.put("ours", PIECE)
    await theirs.put("theirs", PIECE * 2)
    read = (await theirs.get("ours")).data
    await theirs.put("both", b"old" * 100_000)
    await store.put("both", b"new")
    await theirs.put("gone", PIECE)
    await theirs.delete("gone")

    assert read == PIECE
    assert await store.get("theirs") == PIECE * 2
    assert (await theirs.get("both")).data == b"new"
    assert await store.names() == ["both", "ours", "theirs"]
    await store.put("gone", b"back")
    assert (await theirs.get("gone")).data == b"back"
    await client.close()


async def until_answered(store: ObjectStore, name: str) -> bytes:
    """Read an object as soon as the connection is back."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.get(name)
            except BusUnavailableError:
                continue
