"""`ctx.object_store`: bytes of any size under a key, in the store that the plan names."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager

from runtime.bus import object_store
from runtime.bus.base import Bus
from runtime.errors import BusError, ContextError

Keys = list[str]


class ObjectStore:
    """Opened before `init`: a store that is named must exist. Without one every member says what is missing.

    Errors keep their class: NotFoundError for a key that is not there, StreamFullError, CorruptObjectError, and
    BusUnavailableError for an outage.
    """

    def __init__(self, store: object_store.ObjectStore | None) -> None:
        self._store = store

    @classmethod
    async def open(cls, bus: Bus, name: str) -> "ObjectStore":
        """Open the named store; "" is none. Raises NotFoundError with the name."""
        return cls(await bus.object_store(name) if name else None)

    async def save(self, key: str, payload: bytes) -> None:
        """Store an object in the place of the one before; returns once it is there as a whole."""
        store = self._opened()
        check_payload(payload)
        with _told(f"storing object with key {key} to"):
            await store.put(key, bytes(payload))

    async def save_stream(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        """Store what an async iterator yields, chunks of any size, of which little is in memory at once.

        What the iterator raises is raised, and the object before stays.
        """
        store = self._opened()
        with _told(f"storing object with key {key} to"):
            await store.put_stream(key, chunks)

    async def get(self, key: str) -> bytes:
        """Return a whole object."""
        store = self._opened()
        with _told(f"retrieving object with key {key} from"):
            return await store.get(key)

    async def get_stream(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object chunk by chunk; it is known to be right only when the iterator has ended.

        Raises RevisionError when the object is replaced meanwhile.
        """
        store = self._opened()
        with _told(f"retrieving object with key {key} from"):
            async for chunk in store.get_stream(key):
                yield chunk

    async def delete(self, key: str) -> None:
        """Remove an object."""
        store = self._opened()
        with _told(f"deleting object with key {key} from"):
            await store.delete(key)

    async def list(self, regexp: str | re.Pattern[str] = "") -> Keys:
        """Return the keys in which the regular expression is found anywhere, sorted; by default all."""
        store = self._opened()
        pattern = re.compile(regexp)
        with _told("listing the keys of"):
            return [name for name in await store.names() if pattern.search(name)]

    def _opened(self) -> object_store.ObjectStore:
        if self._store is None:
            raise ContextError("no object store configured: set KRT_NATS_OBJECT_STORE")
        return self._store


def check_payload(payload: object) -> None:
    """Raise TypeError for what is no bytes, ContextError for none at all."""
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(f"[ctx.object_store.save] 'payload' must be bytes, it is {type(payload).__name__}")
    if not payload:
        raise ContextError("the payload cannot be empty")


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Say in errors what was being done; the texts are those that KRE's handlers know."""
    try:
        yield
    except BusError as error:
        raise type(error)(f"error {doing} the object store: {error}") from error
