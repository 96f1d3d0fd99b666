"""Buckets on NATS, through nats-py's key-value client."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.js.errors
from nats.js.api import StorageType
from nats.js.kv import KeyValue as Bucket

from runtime.bus.base import Entry, OnChange
from runtime.bus.connection import Connection
from runtime.bus.topology import Topology, translated
from runtime.bus.watch import NatsWatch
from runtime.errors import BusError, NotFoundError

_KEY = re.compile(r"[-/_=a-zA-Z0-9]([-/_=.a-zA-Z0-9]*[-/_=a-zA-Z0-9])?")


class NatsKeyValue:
    """See `bus.base.KeyValue`."""

    def __init__(self, connection: Connection, name: str, bucket: Bucket) -> None:
        self._connection = connection
        self._name = name
        self._bucket = bucket

    @classmethod
    async def open(cls, connection: Connection, topology: Topology, name: str) -> "NatsKeyValue":
        try:
            return cls(connection, name, await topology.open_bucket(name))
        except NotFoundError as error:
            raise NotFoundError(f"there is no bucket {name}") from error

    @classmethod
    async def open_expiring(cls, connection: Connection, name: str, ttl_s: float) -> "NatsKeyValue":
        async with translated(connection):
            bucket = await connection.jetstream.create_key_value(bucket=name, ttl=ttl_s, storage=StorageType.MEMORY)
        return cls(connection, name, bucket)

    async def get(self, key: str) -> Entry:
        async with self._asking(key):
            found = await self._bucket.get(key)
        return Entry(key, found.value or b"", found.revision or 0)

    async def put(self, key: str, value: bytes) -> int:
        async with self._asking(key):
            return int(await self._bucket.put(key, value))

    async def create(self, key: str, value: bytes) -> int:
        async with self._asking(key):
            return int(await self._bucket.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        async with self._asking(key):
            return int(await self._bucket.update(key, value, last=revision))

    async def delete(self, key: str) -> None:
        async with self._asking(key):
            await self._bucket.delete(key)

    async def keys(self) -> list[str]:
        async with translated(self._connection):
            try:
                return sorted(await self._bucket.keys())
            except nats.js.errors.NoKeysError:
                return []

    async def watch(self, keys: str, on_change: OnChange) -> NatsWatch:
        watch = NatsWatch(self._connection, self._name, keys, on_change)
        await watch.start()
        return watch

    @asynccontextmanager
    async def _asking(self, key: str) -> AsyncIterator[None]:
        """Check the key, and say in errors which key of which bucket it was."""
        if _KEY.fullmatch(key) is None:
            raise BusError(f"{key!r} is no key; use A-Z, a-z, 0-9 and -/_=. with no dot at either end")
        try:
            async with translated(self._connection):
                yield
        except NotFoundError as error:
            raise NotFoundError(f"bucket {self._name} has no key {key}") from error
