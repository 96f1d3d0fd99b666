"""Artifacts in an object store of the workflow, which hashes what it is given and checks what it gives."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from runtime.batch.artifacts import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    StoredArtifact,
    check_key,
    checked,
    confirmed,
)
from runtime.bus.base import Bus
from runtime.bus.object_store import ObjectInfo, ObjectStore
from runtime.errors import (
    AccessError,
    BusClosedError,
    BusError,
    CorruptObjectError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)


class NatsArtifacts:
    """See `artifacts.ArtifactStore`. Raises BusClosedError, too."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, bus: Bus, name: str) -> "NatsArtifacts":
        """Open the object store of this name, which the manager has made. Raises StoreError, StoreUnavailableError."""
        with _asking():
            try:
                return cls(await bus.object_store(name))
            except NotFoundError as error:
                raise StoreError(f"{error}; it is made by the workflow's manager, which has to run") from error

    async def put(self, key: str, pieces: AsyncIterable[bytes], *, size: int, sha256: str) -> StoredArtifact:
        check_key(key)
        with _asking():
            await self._store.put_stream(key, checked(key, pieces, size=size, sha256=sha256))
        return confirmed(await self.stat(key), size=size, sha256=sha256)

    async def stat(self, key: str) -> StoredArtifact:
        check_key(key)
        with _asking(key):
            return _artifact(await self._store.describe(key))

    async def get(self, key: str) -> AsyncIterator[bytes]:
        check_key(key)
        with _asking(key):
            async for piece in self._store.get_stream(key):
                yield piece

    async def delete(self, key: str) -> None:
        check_key(key)
        try:
            with _asking(key):
                await self._store.delete(key)
        except ArtifactNotFoundError:
            return

    async def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        with _asking():
            return [_artifact(info) for info in await self._store.describe_all() if info.name.startswith(prefix)]

    async def close(self) -> None:
        """The connection is not its own."""


def _artifact(info: ObjectInfo) -> StoredArtifact:
    return StoredArtifact(key=info.name, size=info.size_bytes, sha256=info.sha256)


@contextmanager
def _asking(key: str = "") -> Iterator[None]:
    """Turn the errors of the bus into those of stores. key: what may be missing, "" for the store itself."""
    try:
        yield
    except BusClosedError:
        raise
    except NotFoundError as error:
        raise ArtifactNotFoundError(str(error)) if key else StoreError(str(error)) from error
    except CorruptObjectError as error:
        raise CorruptArtifactError(str(error)) from error
    except AccessError as error:
        raise StoreError(str(error)) from error
    except BusError as error:  # full, away, or replaced meanwhile
        raise StoreUnavailableError(str(error)) from error
