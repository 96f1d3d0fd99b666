"""What every store of artifacts shows: the same listing, the same digests, and nothing that is not whole."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import (
    ArtifactNotFoundError,
    ArtifactStore,
    CorruptArtifactError,
    StoredArtifact,
)
from runtime.bus.memory import MemoryBroker
from runtime.clock import SystemClock
from runtime.errors import ConfigError, StoreError
from test.conformance.batch.artifact_places import BusPlace, FilePlace, Place, S3Place
from test.conformance.bus.backends import MemoryBackend, NatsBackend
from test.support.s3 import serve_s3

KEY = "simulation-runs/0f/private/log/stdout.log"
MIB = 1024**2
# Three parts of S3, and no multiple of one.
LARGE = bytes(range(256)) * (20 * MIB // 256) + b"end"


@pytest.fixture(params=["memory", "nats", "file", "s3"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    made: Place
    if request.param == "memory":
        made = BusPlace(MemoryBackend())
    elif request.param == "nats":
        made = BusPlace(NatsBackend(request.getfixturevalue("nats_server").url))
    elif request.param == "file":
        made = FilePlace(tmp_path / "artifacts")
    else:
        made = S3Place(monkeypatch, request.getfixturevalue("s3_url"))
    yield made
    await made.close()


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture
async def store(place: Place) -> AsyncIterator[ArtifactStore]:
    opened = await place.open()
    yield opened
    await opened.close()


async def pieces_of(data: bytes, size: int = MIB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def described(key: str, data: bytes) -> StoredArtifact:
    return StoredArtifact(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


async def put(store: ArtifactStore, key: str, data: bytes) -> StoredArtifact:
    return await store.put(key, pieces_of(data), size=len(data), sha256=hashlib.sha256(data).hexdigest())


async def read(store: ArtifactStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


@pytest.mark.parametrize("data", [b"", b"x", b"y" * 3 * MIB, LARGE], ids=["nothing", "a byte", "3 MiB", "20 MiB"])
async def test_what_was_put_is_confirmed_and_got(store: ArtifactStore, data: bytes) -> None:
    stored = await put(store, KEY, data)

    assert stored == described(KEY, data)
    assert await store.stat(KEY) == stored
    assert await read(store, KEY) == data


async def test_listings_are_sorted_and_the_same_for_every_store(store: ArtifactStore) -> None:
    keys = ["runs/b/public/data.json", "runs/a/private/log/x.log", "runs/a/private/a", "other/a"]
    for key in keys:
        await put(store, key, key.encode())

    assert list(await store.list()) == [described(key, key.encode()) for key in sorted(keys)]
    assert [each.key for each in await store.list("runs/a/")] == ["runs/a/private/a", "runs/a/private/log/x.log"]
    assert [each.key for each in await store.list("runs/a/private/l")] == ["runs/a/private/log/x.log"]
    assert list(await store.list("nothing/")) == []


@pytest.mark.parametrize(
    "name", ["two words", "größe €", "a+b%20c&d=e?f#g", "back\\slash", "..hidden", "'\"<>|*", "x" * 255]
)
async def test_the_name_of_a_file_is_any_text(store: ArtifactStore, name: str) -> None:
    key = f"runs/a/public/output/{name}"

    await put(store, key, b"content")

    assert await read(store, key) == b"content"
    assert [each.key for each in await store.list("runs/a/")] == [key]


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "a/../b", "../a", "./a", "a\0b", "a\nb", "a/" + "x" * 256, "abc/" * 300 + "d", "a/\udce9"],
)
async def test_a_key_that_is_none_is_refused_by_everything(store: ArtifactStore, key: str) -> None:
    for asked in (put(store, key, b"x"), store.stat(key), read(store, key), store.delete(key)):
        with pytest.raises(StoreError, match="is no key"):
            await asked


async def test_an_artifact_replaces_the_one_of_its_key(store: ArtifactStore, place: Place) -> None:
    await put(store, KEY, b"first and longer")

    await put(store, KEY, b"second")

    assert await read(store, KEY) == b"second"
    assert list(await store.list()) == [described(KEY, b"second")]
    assert await place.leftovers() == 0


async def test_a_removed_artifact_is_gone_and_removed_again(store: ArtifactStore) -> None:
    await put(store, KEY, b"content")

    await store.delete(KEY)
    await store.delete(KEY)

    assert list(await store.list()) == []


async def test_what_is_missing_is_named(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactNotFoundError, match="stdout"):
        await store.stat(KEY)
    with pytest.raises(ArtifactNotFoundError, match="stdout"):
        await read(store, KEY)


@pytest.mark.parametrize("data", [b"other", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("fault", ["shorter", "other hash"])
async def test_bytes_other_than_said_are_never_an_artifact(
    store: ArtifactStore, place: Place, data: bytes, fault: str
) -> None:
    await put(store, KEY, b"before")
    said = described(KEY, data)
    size = said.size + 1 if fault == "shorter" else said.size
    sha256 = "0" * 64 if fault == "other hash" else said.sha256

    with pytest.raises(CorruptArtifactError, match=r"stdout\.log"):
        await store.put(KEY, pieces_of(data), size=size, sha256=sha256)

    assert await read(store, KEY) == b"before"
    assert await place.leftovers() == 0


async def test_a_file_that_cannot_be_read_to_its_end_is_never_an_artifact(store: ArtifactStore, place: Place) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 10 * MIB
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        await store.put(KEY, breaking(), size=len(LARGE), sha256="0" * 64)

    assert list(await store.list()) == []
    assert await place.leftovers() == 0


async def test_a_cancelled_transfer_leaves_nothing(store: ArtifactStore, place: Place) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 10 * MIB
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put(KEY, endless(), size=len(LARGE), sha256="0" * 64))
    async with asyncio.timeout(10):
        await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert list(await store.list()) == []
    assert await place.leftovers() == 0


async def test_reading_may_be_broken_off(store: ArtifactStore) -> None:
    await put(store, KEY, LARGE)

    reading = store.get(KEY)
    first = await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]  # all of them are generators

    assert LARGE.startswith(first)
    assert await read(store, KEY) == LARGE


async def test_other_bytes_in_the_store_are_told(store: ArtifactStore, place: Place) -> None:
    await put(store, KEY, b"content")

    is_known = await place.corrupt(KEY, b"CONTENT")

    if is_known:
        with pytest.raises(CorruptArtifactError):
            await read(store, KEY)
    else:
        assert await store.stat(KEY) == described(KEY, b"CONTENT")


async def test_artifacts_are_put_and_read_beside_each_other(store: ArtifactStore) -> None:
    contents = {f"runs/a/public/{number}": bytes([number]) * MIB for number in range(8)}

    await asyncio.gather(*(put(store, key, data) for key, data in contents.items()))

    assert await asyncio.gather(*(read(store, key) for key in contents)) == list(contents.values())


async def test_a_store_that_is_gone_is_an_error_and_not_an_empty_one(store: ArtifactStore, place: Place) -> None:
    await put(store, KEY, b"content")

    await place.remove()

    for asked in (put(store, KEY, b"x"), store.stat(KEY), read(store, KEY)):
        with pytest.raises(StoreError) as caught:
            await asked
        assert not isinstance(caught.value, CorruptArtifactError)


@pytest.mark.parametrize("location", ["runs", "nats:", "file://relative", "s3://", "http://somewhere/"])
async def test_a_location_that_is_none_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        await open_store(location, bus=MemoryBroker(SystemClock()).connect(), stream="prod_v1_floods")
