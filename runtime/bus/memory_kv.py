"""Buckets of key-value entries in memory."""

import asyncio
import re
from collections.abc import Callable

from runtime.bus.base import Entry, OnChange
from runtime.bus.subjects import matches
from runtime.clock import Clock
from runtime.errors import BusError, NotFoundError, RevisionError

KEY_PATTERN = re.compile(r"[-/_=a-zA-Z0-9]([-/_=.a-zA-Z0-9]*[-/_=a-zA-Z0-9])?")


class MemoryBucket:
    """What the server keeps: every write, deletions included, takes the bucket's next revision.

    ttl_s: how long an entry lives after its last write, 0 for ever. As on a server, nobody is told of its end.
    """

    def __init__(self, clock: Clock, ttl_s: float = 0.0) -> None:
        self.entries: dict[str, Entry] = {}
        self.revisions: dict[str, int] = {}
        self._clock = clock
        self.ttl_s = ttl_s
        self._last_revision = 0
        self._watches: list[MemoryWatch] = []

    def write(self, key: str, value: bytes) -> int:
        entry = Entry(key, value, self._next_revision(key))
        self.entries[key] = entry
        if self.ttl_s:
            self._clock.call_later(self.ttl_s, lambda: self._expire(entry))
        self._tell(key, entry)
        return entry.revision

    def delete(self, key: str) -> None:
        if self.entries.pop(key, None) is not None:
            self._next_revision(key)
            self._tell(key, None)

    def watch(self, keys: str, on_change: OnChange) -> "MemoryWatch":
        watch = MemoryWatch(self, keys, on_change)
        self._watches.append(watch)
        for key, entry in self.entries.items():
            watch.tell(key, entry)
        return watch

    def forget(self, watch: "MemoryWatch") -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def _expire(self, entry: Entry) -> None:
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key], self.revisions[entry.key]

    def _tell(self, key: str, entry: Entry | None) -> None:
        for watch in self._watches:
            asyncio.get_running_loop().call_soon(watch.tell, key, entry)

    def _next_revision(self, key: str) -> int:
        self._last_revision += 1
        self.revisions[key] = self._last_revision
        return self._last_revision


class MemoryWatch:
    """See `base.Subscription`."""

    def __init__(self, bucket: MemoryBucket, keys: str, on_change: OnChange) -> None:
        self._bucket = bucket
        self._keys = keys
        self._on_change = on_change

    def tell(self, key: str, entry: Entry | None) -> None:
        if matches(self._keys, key):
            self._on_change(key, entry)

    async def unsubscribe(self) -> None:
        self.remove()

    def remove(self) -> None:
        self._bucket.forget(self)


class MemoryKeyValue:
    """See `base.KeyValue`. check: raises when the connection cannot be used."""

    def __init__(self, bucket: MemoryBucket, check: Callable[[], None]) -> None:
        self._bucket = bucket
        self._check = check

    async def get(self, key: str) -> Entry:
        self._check_key(key)
        entry = self._bucket.entries.get(key)
        if entry is None:
            raise NotFoundError(f"the bucket has no key {key}")
        return entry

    async def put(self, key: str, value: bytes) -> int:
        self._check_key(key)
        return self._bucket.write(key, value)

    async def create(self, key: str, value: bytes) -> int:
        self._check_key(key)
        if key in self._bucket.entries:
            raise RevisionError(f"key {key} exists at revision {self._bucket.entries[key].revision}")
        return self._bucket.write(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self._check_key(key)
        current = self._bucket.revisions.get(key, 0)
        if current != revision:
            raise RevisionError(f"key {key} is at revision {current}, not {revision}")
        return self._bucket.write(key, value)

    async def delete(self, key: str) -> None:
        self._check_key(key)
        self._bucket.delete(key)

    async def keys(self) -> list[str]:
        self._check()
        return sorted(self._bucket.entries)

    async def watch(self, keys: str, on_change: OnChange) -> MemoryWatch:
        self._check()
        return self._bucket.watch(keys, on_change)

    def _check_key(self, key: str) -> None:
        self._check()
        if KEY_PATTERN.fullmatch(key) is None:
            raise BusError(f"{key!r} is no key; use A-Z, a-z, 0-9 and -/_=. with no dot at either end")
