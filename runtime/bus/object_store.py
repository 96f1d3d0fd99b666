"""Contract of object stores, the part of `base.py` for bytes that are larger than a message."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from runtime.errors import BusError

# Longest name of an object, in bytes of UTF-8: it becomes part of a subject, and NATS takes lines of 4 KiB.
MAX_OBJECT_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreConfig:
    """A store of objects. max_bytes: 0 means no limit. max_age_s: how long an object is kept, 0 means for ever."""

    name: str
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    max_bytes: int = 0
    max_age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store knows of one object.

    sha256: hex; "" where another client has written it without. stored_ns: when it was put, unix time in nanoseconds,
    give or take some microseconds.
    """

    name: str
    size_bytes: int
    sha256: str
    stored_ns: int


class ObjectStore(Protocol):
    """A store of objects: bytes of any size under a name, which is any text of 1 to 1024 bytes.

    An object is there once `put` has returned, as a whole, and replaces the one of that name; until then readers get
    the one before. It is checked against its hash whenever it is read. A store whose size is limited has to have room
    for the old object and the new one at once. Every method raises NotFoundError for a store that is gone,
    BusUnavailableError when NATS does not answer in time, and BusError for a name that is none.
    """

    async def put(self, name: str, data: bytes) -> None:
        """Store an object. Raises StreamFullError; after any error the object before is still there.

        After BusUnavailableError it may be the new one, if the very last answer was lost. To put again is harmless.
        """
        ...

    async def put_stream(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Store what an iterator yields, of which never more than 4 MiB are in memory; what it raises is raised.

        Cancelling it leaves the object before, and at the very end perhaps the new one. A process that dies on the way
        leaves chunks that take up room until the store's age ends them.
        """
        ...

    async def get(self, name: str) -> bytes:
        """Read a whole object. Raises NotFoundError, CorruptObjectError; RevisionError if it is replaced all the time.

        NotFoundError is never an outage.
        """
        ...

    def get_stream(self, name: str) -> AsyncIterator[bytes]:
        """Read an object chunk by chunk, as they are asked for; breaking off leaves nothing behind.

        Raises as `get`, but the chunks before the error have been handed out: they are worth something only when the
        iterator has ended. Raises RevisionError when the object is replaced or removed meanwhile.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove an object. Raises NotFoundError for one that is not there."""
        ...

    async def describe(self, name: str) -> ObjectInfo:
        """Return what is known of an object, without its bytes. Raises NotFoundError."""
        ...

    async def describe_all(self) -> list[ObjectInfo]:
        """What is known of every object, sorted by name."""
        ...

    async def names(self) -> list[str]:
        """Every object's name, sorted."""
        ...

    async def size_bytes(self) -> int:
        """Return how much of `max_bytes` is in use, with what was begun and not ended."""
        ...

    async def discard_unfinished(self, before_ns: int) -> int:
        """Remove what belongs to no object and was stored before a time (unix, nanoseconds); returns of how many.

        That is what processes leave that die while they put something. A put that goes on has stored something since.
        """
        ...


class ObjectStores(Protocol):
    """What a connection knows of object stores; `base.Bus` has it, too."""

    async def ensure_object_store(self, config: ObjectStoreConfig) -> list[str]:
        """Create the store, or update it, as `ensure_stream` does; the lines begin with `object store NAME`."""
        ...

    async def object_store(self, name: str) -> ObjectStore:
        """Open a store. Raises NotFoundError, BusUnavailableError."""
        ...

    async def object_stores(self) -> list[str]:
        """Every store of the server that this connection may see, sorted."""
        ...

    async def delete_object_store(self, name: str) -> None:
        """Remove a store with its objects. Raises NotFoundError."""
        ...


def check_object_name(name: str) -> None:
    """Raise BusError unless `name` can name an object."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise BusError(f"{name!r} names no object: it is no valid Unicode") from error
    if not 0 < size_bytes <= MAX_OBJECT_NAME_BYTES:
        raise BusError(f"an object's name has 1 to {MAX_OBJECT_NAME_BYTES} bytes, {name[:20]!r} has {size_bytes}")
