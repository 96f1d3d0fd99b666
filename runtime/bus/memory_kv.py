"""Buckets of key-value entries in memory."""

import re
from collections.abc import Callable

from runtime.bus.base import Entry
from runtime.errors import BusError, NotFoundError, RevisionError

KEY_PATTERN = re.compile(r"[-/_=a-zA-Z0-9]([-/_=.a-zA-Z0-9]*[-/_=a-zA-Z0-9])?")


class MemoryBucket:
    """What the server keeps: every write, deletions included, takes the bucket's next revision."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revisions: dict[str, int] = {}
        self._last_revision = 0

    def write(self, key: str, value: bytes) -> int:
        revision = self._next_revision(key)
        self.entries[key] = Entry(key, value, revision)
        return revision

    def delete(self, key: str) -> None:
        if self.entries.pop(key, None) is not None:
            self._next_revision(key)

    def _next_revision(self, key: str) -> int:
        self._last_revision += 1
        self.revisions[key] = self._last_revision
        return self._last_revision


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

    def _check_key(self, key: str) -> None:
        self._check()
        if KEY_PATTERN.fullmatch(key) is None:
            raise BusError(f"{key!r} is no key; use A-Z, a-z, 0-9 and -/_=. with no dot at either end")
