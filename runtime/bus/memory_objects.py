"""Object stores in memory, with the limits, the expiry and the failures of those on NATS."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, fields, replace

from runtime.bus.object_store import ObjectInfo, ObjectStoreConfig, check_object_name
from runtime.clock import Clock
from runtime.errors import CorruptObjectError, DriftError, NotFoundError, RevisionError, StreamFullError

# Bytes of a chunk, as on NATS.
CHUNK_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object with the hash that its bytes had when it was written, and the time (ns)."""

    data: bytes
    digest: bytes
    time_ns: int


class MemoryObjects:
    """What the server keeps of one store. Every method is immediate."""

    def __init__(self, config: ObjectStoreConfig, clock: Clock) -> None:
        self.config = config
        self._clock = clock
        self._objects: dict[str, StoredObject] = {}

    def update(self, config: ObjectStoreConfig) -> list[str]:
        """Take over what has changed, and return a line for each field. Raises DriftError."""
        title = f"object store {config.name}"
        pairs = [(each.name, getattr(self.config, each.name), getattr(config, each.name)) for each in fields(config)]
        changes = [f"{title}: {name}: {was} -> {becomes}" for name, was, becomes in pairs if was != becomes]
        if self.config.storage != config.storage:
            raise DriftError(f"{title} cannot be changed in place: {changes[0]}")
        self.config = config
        return changes

    @property
    def size_bytes(self) -> int:
        self._expire()
        return sum(len(stored.data) for stored in self._objects.values())

    def names(self) -> list[str]:
        self._expire()
        return sorted(self._objects)

    def contents(self) -> dict[str, bytes]:
        """Return every object by its name, sorted."""
        return {name: self._objects[name].data for name in self.names()}

    def find(self, name: str) -> StoredObject:
        """Raises NotFoundError."""
        self._expire()
        if name not in self._objects:
            raise NotFoundError(f"object store {self.config.name} has no object {name!r}")
        return self._objects[name]

    def holds(self, name: str, stored: StoredObject) -> bool:
        """Say whether this very object is the one of that name."""
        self._expire()
        return self._objects.get(name) is stored

    def store(self, name: str, data: bytes) -> None:
        """Put an object in the place of the one before. Raises StreamFullError."""
        self.check_room(len(data))
        digest = hashlib.sha256(data).digest()
        self._objects[name] = StoredObject(data=data, digest=digest, time_ns=self._clock.time_ns())

    def check_room(self, size_bytes: int) -> None:
        """Raise StreamFullError unless so many bytes fit beside all that is there."""
        if 0 < self.config.max_bytes < self.size_bytes + size_bytes:
            raise StreamFullError(f"object store {self.config.name} is full; delete objects, or raise its max_bytes")

    def delete(self, name: str) -> None:
        """Raises NotFoundError."""
        self.find(name)
        del self._objects[name]

    def corrupt(self, name: str, data: bytes) -> None:
        """For tests: change the bytes of an object, and not its hash."""
        self._objects[name] = replace(self.find(name), data=data)

    def _expire(self) -> None:
        if self.config.max_age_s:
            oldest_ns = self._clock.time_ns() - round(self.config.max_age_s * 1e9)
            self._objects = {name: one for name, one in self._objects.items() if one.time_ns > oldest_ns}


class MemoryObjectStore:
    """See `object_store.ObjectStore`. find: returns the store; raises when it is gone, or the connection is."""

    def __init__(self, find: Callable[[], MemoryObjects]) -> None:
        self._find = find

    async def put(self, name: str, data: bytes) -> None:
        check_object_name(name)
        self._find().store(name, bytes(data))

    async def put_stream(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        check_object_name(name)
        self._find()
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            self._find().check_room(len(data))
        self._find().store(name, bytes(data))

    async def get(self, name: str) -> bytes:
        return b"".join([chunk async for chunk in self.get_stream(name)])

    async def get_stream(self, name: str) -> AsyncIterator[bytes]:
        check_object_name(name)
        found = self._find().find(name)
        for start in range(0, len(found.data), CHUNK_BYTES):
            if not self._find().holds(name, found):
                raise RevisionError(f"object {name!r} was replaced or removed while it was read; read it again")
            yield found.data[start : start + CHUNK_BYTES]
        if hashlib.sha256(found.data).digest() != found.digest:
            raise CorruptObjectError(f"object {name!r} is not what was stored: its hash differs")

    async def delete(self, name: str) -> None:
        check_object_name(name)
        self._find().delete(name)

    async def describe(self, name: str) -> ObjectInfo:
        check_object_name(name)
        return _info(name, self._find().find(name))

    async def describe_all(self) -> list[ObjectInfo]:
        objects = self._find()
        return [_info(name, objects.find(name)) for name in objects.names()]

    async def names(self) -> list[str]:
        return self._find().names()

    async def size_bytes(self) -> int:
        return self._find().size_bytes

    async def discard_unfinished(self, before_ns: int) -> int:
        return 0  # an object is stored at once, or not at all


def _info(name: str, stored: StoredObject) -> ObjectInfo:
    return ObjectInfo(name=name, size_bytes=len(stored.data), sha256=stored.digest.hex(), stored_ns=stored.time_ns)
