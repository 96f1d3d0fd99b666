"""Places of artifacts for the suite, each with the faults that it causes there."""

import os
import secrets
from pathlib import Path
from typing import Any, Protocol

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import ArtifactStore
from runtime.bus.memory import MemoryBroker
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from test.conformance.bus.backends import Backend
from test.support.s3 import use_s3

STREAM = "prod_v1_floods"
NAME = "runs"


class Place(Protocol):
    """Where one kind of store keeps its artifacts."""

    async def open(self) -> ArtifactStore: ...

    async def corrupt(self, key: str, data: bytes) -> bool:
        """Put other bytes of the same number there behind the store's back; False where it cannot know."""
        ...

    async def leftovers(self) -> int:
        """Return how much there is that belongs to no artifact."""
        ...

    async def remove(self) -> None:
        """Remove the whole place under its users."""
        ...

    async def close(self) -> None: ...


class BusPlace:
    """An object store, in memory or on NATS."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = f"{STREAM}_{NAME}"

    async def open(self) -> ArtifactStore:
        bus = await self._backend.connect()
        await bus.ensure_object_store(ObjectStoreConfig(name=self._store, storage="memory"))
        return await open_store(f"nats:{NAME}", bus=bus, stream=STREAM)

    async def corrupt(self, key: str, data: bytes) -> bool:
        await self._backend.corrupt_object(self._store, key, data)
        return True

    async def leftovers(self) -> int:
        # Whole artifacts of the tests that ask take up less than this, with their descriptions.
        return await self._backend.stored_bytes(self._store) // 4096

    async def remove(self) -> None:
        await (await self._backend.connect()).delete_object_store(self._store)

    async def close(self) -> None:
        await self._backend.close()


class FilePlace:
    def __init__(self, root: Path) -> None:
        self._root = root

    async def open(self) -> ArtifactStore:
        return await open_store(f"file://{self._root}", bus=MemoryBroker(SystemClock()).connect(), stream=STREAM)

    async def corrupt(self, key: str, data: bytes) -> bool:
        (self._root / key).write_bytes(data)
        return False

    async def leftovers(self) -> int:
        return len(os.listdir(self._root / ".incoming"))

    async def remove(self) -> None:
        self._root.rename(self._root.with_suffix(".gone"))
        self._root.write_text("a file where the folder was")

    async def close(self) -> None:
        """It is a folder of the test."""


class S3Place:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        self._client: Any = use_s3(monkeypatch, url)
        # The server of the tests keeps what it is given for as long as this process lives.
        self._bucket = f"floods-{secrets.token_hex(8)}"
        self._client.create_bucket(Bucket=self._bucket)

    async def open(self) -> ArtifactStore:
        return await open_store(
            f"s3://{self._bucket}/some/prefix", bus=MemoryBroker(SystemClock()).connect(), stream=STREAM
        )

    async def corrupt(self, key: str, data: bytes) -> bool:
        place = {"Bucket": self._bucket, "Key": f"some/prefix/{key}"}
        metadata = self._client.head_object(**place)["Metadata"]
        self._client.put_object(**place, Body=data, Metadata=metadata)
        return True

    async def leftovers(self) -> int:
        return len(self._client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", ()))

    async def remove(self) -> None:
        for each in self._client.list_objects_v2(Bucket=self._bucket).get("Contents", ()):
            self._client.delete_object(Bucket=self._bucket, Key=each["Key"])
        self._client.delete_bucket(Bucket=self._bucket)

    async def close(self) -> None:
        self._client.close()
