"""Stores of artifacts that go away while something is put: an error that says so, and is worth a retry."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from runtime.errors import StoreUnavailableError
from test.support.s3 import serve_s3, use_s3

STREAM = "prod_v1_floods"
KEY = "simulation-runs/0f/private/output/large.bin"
PIECE = b"x" * 1024**2
# More than what is sent before the first answer is waited for.
PIECES = 24
SIZE = PIECES * len(PIECE)
SHA256 = hashlib.sha256(PIECE * PIECES).hexdigest()


async def pieces(at_half: Callable[[], None] = lambda: None) -> AsyncIterator[bytes]:
    for number in range(PIECES):
        if number == PIECES // 2:
            at_half()
        yield PIECE


async def test_a_server_of_nats_that_is_stopped_during_an_upload(nats_server: EmbeddedServer) -> None:
    bus = await NatsBus.connect([nats_server.url], name="outage", request_timeout_s=1.0)
    await bus.ensure_object_store(ObjectStoreConfig(name=f"{STREAM}_runs"))
    store = await open_store("nats:runs", bus=bus, stream=STREAM)

    with pytest.raises(StoreUnavailableError):
        await store.put(KEY, pieces(nats_server.stop_blocking), size=SIZE, sha256=SHA256)
    with pytest.raises(StoreUnavailableError):
        await store.stat(KEY)
    nats_server.start_blocking()
    stored = await store.put(KEY, pieces(), size=SIZE, sha256=SHA256)

    assert list(await store.list()) == [stored]
    await bus.close()


async def test_s3_that_is_stopped_during_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MemoryBroker(SystemClock()).connect()
    with ExitStack() as serving:
        client = use_s3(monkeypatch, serving.enter_context(serve_s3()))
        client.create_bucket(Bucket="outage")
        store = await open_store("s3://outage", bus=bus, stream=STREAM)

        with pytest.raises(StoreUnavailableError, match="no answer"):
            await store.put(KEY, pieces(serving.close), size=SIZE, sha256=SHA256)

        await store.close()
        client.close()
