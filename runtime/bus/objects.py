"""Object stores on NATS, in the format of JetStream's own, which every client of NATS reads and writes.

An object is a series of chunks on a subject made for it, and one message that describes it (ADR-20 of
nats-architecture-and-design). The description is written last, by compare-and-set: so whoever replaces an object knows
the one that it replaces, and removes its chunks. nats-py's client leaves those of concurrent writers for ever, takes no
iterator, waits for every chunk, and reads without a timeout.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import api

from runtime.bus.base import StreamConfig
from runtime.bus.connection import Connection
from runtime.bus.object_store import ObjectInfo, ObjectStoreConfig, check_object_name
from runtime.bus.scan import NatsScan
from runtime.bus.topology import Topology, translated
from runtime.errors import (
    BusError,
    BusUnavailableError,
    CorruptObjectError,
    NotFoundError,
    RevisionError,
    StreamFullError,
)

log = logging.getLogger(__name__)

# Bytes of a chunk: what other clients write, too.
CHUNK_BYTES = 128 * 1024
# Chunks that are stored at once: 2 MiB, all that a transfer keeps in memory.
CHUNKS_IN_FLIGHT = 16
# Times that `get` begins to read: a quick writer may replace the object under it again and again.
READ_TRIES = 20
# Seconds in which the server would know message ids; ours have none, and it wants no window longer than the age.
DUPLICATE_WINDOW_S = 1.0

# What JetStream puts before a store's name to get its stream's.
STORE_PREFIX = "OBJ_"

_STORE_NAME = re.compile(r"[-_a-zA-Z0-9]+")
# JetStream's err_code for a stream that is not there, beside that for a message.
_NO_STREAM = 10059


def stream_of_store(config: ObjectStoreConfig) -> StreamConfig:
    """Return the stream that a store is on NATS."""
    return StreamConfig(
        name=f"{STORE_PREFIX}{config.name}",
        subjects=(f"$O.{config.name}.C.>", f"$O.{config.name}.M.>"),
        storage=config.storage,
        replicas=config.replicas,
        max_bytes=config.max_bytes,
        max_age_s=config.max_age_s,
        duplicate_window_s=min(DUPLICATE_WINDOW_S, config.max_age_s or DUPLICATE_WINDOW_S),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """What describes an object, and its place in the stream. digest: as in the message, `SHA-256=<base64>`."""

    sequence: int
    stored_ns: int
    nuid: str
    chunks: int
    size_bytes: int
    digest: str
    deleted: bool

    @classmethod
    def read(cls, body: Mapping[str, Any], sequence: int, stored_ns: int) -> "_Description":
        return cls(
            sequence=sequence,
            stored_ns=stored_ns,
            nuid=body.get("nuid", ""),
            chunks=body.get("chunks", 0),
            size_bytes=body.get("size", 0),
            digest=body.get("digest", ""),
            deleted=body.get("deleted", False),
        )

    def info(self, name: str) -> ObjectInfo:
        sha256 = _hex_of(self.digest)
        return ObjectInfo(name=name, size_bytes=self.size_bytes, sha256=sha256, stored_ns=self.stored_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What was stored of an object: the token of its chunks' subject, their number, their bytes and their hash."""

    nuid: str
    chunks: int
    size_bytes: int
    digest: str


class NatsObjectStore:
    """See `bus.object_store.ObjectStore`."""

    def __init__(self, connection: Connection, topology: Topology, name: str) -> None:
        self._connection = connection
        self._topology = topology
        self._js = connection.jetstream
        self._name = name
        self._stream = f"{STORE_PREFIX}{name}"

    @classmethod
    async def open(cls, connection: Connection, topology: Topology, name: str) -> "NatsObjectStore":
        store = cls(connection, topology, name)
        if _STORE_NAME.fullmatch(name) is None:  # the server would not take it for one name
            raise store._missing()
        async with store._asking():
            await store._js.stream_info(store._stream)
        return store

    # --- writing ---

    async def put(self, name: str, data: bytes) -> None:
        await self.put_stream(name, _once(data))

    async def put_stream(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        check_object_name(name)
        # Before anything is sent, because a store that is missing looks like one whose leader is.
        previous = await self._find(name)
        nuid = secrets.token_hex(11)
        try:
            content = await self._store(nuid, chunks)
        except BaseException:  # cancelled, too: what was stored is of no use to anybody
            await self._discard(nuid)
            raise
        await self._describe(name, content, previous)

    async def _store(self, nuid: str, chunks: AsyncIterable[bytes]) -> _Content:
        """Store the chunks in their order, some of them at once. Raises what the iterator raises."""
        digest, count, size_bytes = hashlib.sha256(), 0, 0
        batch: list[bytes] = []
        async for chunk in _resized(chunks, min(CHUNK_BYTES, self._connection.max_payload_bytes)):
            digest.update(chunk)
            count, size_bytes = count + 1, size_bytes + len(chunk)
            batch.append(chunk)
            if len(batch) == CHUNKS_IN_FLIGHT:
                await self._publish_all(nuid, batch)
                batch.clear()
        await self._publish_all(nuid, batch)
        return _Content(nuid=nuid, chunks=count, size_bytes=size_bytes, digest=_digest_text(digest.digest()))

    async def _publish_all(self, nuid: str, batch: list[bytes]) -> None:
        subject = self._chunk_subject(nuid)
        async with self._asking():
            # None is sent again: behind those that follow it, it would lie in the wrong place for ever.
            answers = await asyncio.gather(
                *(self._js.publish(subject, chunk) for chunk in batch), return_exceptions=True
            )
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer

    async def _describe(self, name: str, content: _Content, previous: _Description | None) -> None:
        """Make the stored chunks the object, and remove those of the one before."""
        subject, body = self._name_subject(name), self._description(name, content)
        while True:
            headers = {
                api.Header.ROLLUP: "sub",
                api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE: str(previous.sequence if previous else 0),
            }
            try:
                async with self._asking():
                    await self._js.publish(subject, body, headers=headers)
                break
            except RevisionError:  # another writer was faster; so this one replaces what that one wrote
                previous = await self._find(name)
            except BusUnavailableError:
                # It may be stored all the same, and then the chunks belong to it. The next writer removes them.
                raise
            except BusError:
                await self._discard(content.nuid)
                raise
        if previous is not None:
            await self._discard(previous.nuid)

    def _description(self, name: str, content: _Content) -> bytes:
        return json.dumps(
            {
                "name": name,
                "options": {"max_chunk_size": CHUNK_BYTES},
                "bucket": self._name,
                "nuid": content.nuid,
                "size": content.size_bytes,
                "mtime": datetime.now(UTC).isoformat(),
                "chunks": content.chunks,
                "digest": content.digest,
            }
        ).encode()

    async def delete(self, name: str) -> None:
        found = await self._existing(name)
        async with self._asking():
            # Up to this one: what another writer puts now stays. Not marked as deleted, as other clients do it: the
            # mark would stay for ever, and a full store would have no room for it.
            await self._js.purge_stream(self._stream, subject=self._name_subject(name), seq=found.sequence + 1)
        await self._discard(found.nuid)

    async def _discard(self, nuid: str) -> None:
        """Remove chunks that no object has; if that fails they only take up room, until the store's age ends them."""
        try:
            async with self._asking():
                await self._js.purge_stream(self._stream, subject=self._chunk_subject(nuid))
        except BusError as error:
            log.warning("unused chunks stay in object store %s: %s", self._name, error, extra={"action": "chunks-left"})

    # --- reading ---

    async def get(self, name: str) -> bytes:
        for _ in range(READ_TRIES - 1):
            try:
                return await self._read(name)
            except RevisionError:
                continue
        return await self._read(name)

    async def _read(self, name: str) -> bytes:
        return b"".join([chunk async for chunk in self.get_stream(name)])

    async def get_stream(self, name: str) -> AsyncIterator[bytes]:
        found = await self._existing(name)
        digest, sequence = hashlib.sha256(), 0
        for _ in range(found.chunks):
            message = await self._next_chunk(found.nuid, sequence + 1)
            if message is None:
                raise await self._loss(name, found)
            sequence = message.seq or 0
            data = message.data or b""
            digest.update(data)
            yield data
        if _digest_text(digest.digest()) != found.digest:
            raise CorruptObjectError(
                f"object {name!r} of object store {self._name} is not what was stored: its hash differs"
            )

    async def describe(self, name: str) -> ObjectInfo:
        return (await self._existing(name)).info(name)

    async def names(self) -> list[str]:
        return [info.name for info in await self.describe_all()]

    async def describe_all(self) -> list[ObjectInfo]:
        found = await self._descriptions()
        return [each.info(name) for name, each in sorted(found.items()) if not each.deleted]

    async def size_bytes(self) -> int:
        async with self._asking():
            return int((await self._js.stream_info(self._stream)).state.bytes)

    async def discard_unfinished(self, before_ns: int) -> int:
        async with self._asking():
            chunks = await self._js.stream_info(self._stream, subjects_filter=self._chunk_subject(">"))
        # Only now: in the other order, an object that is described in between would lose its chunks.
        used = {each.nuid for each in (await self._descriptions()).values()}
        discarded = 0
        for subject in chunks.state.subjects or {}:
            nuid = subject.rpartition(".")[2]
            if nuid not in used and await self._was_left_before(subject, before_ns):
                await self._discard(nuid)
                discarded += 1
        return discarded

    async def _was_left_before(self, chunk_subject: str, before_ns: int) -> bool:
        async with self._asking():
            try:
                last = await self._js.get_last_msg(self._stream, chunk_subject)
            except nats.js.errors.NotFoundError as error:
                if error.err_code == _NO_STREAM:
                    raise
                return False
        return _time_ns(last) < before_ns

    async def _descriptions(self) -> dict[str, _Description]:
        """Return what describes the objects, removed ones too, by their names."""
        # By name: an object that is replaced meanwhile is met again.
        found: dict[str, _Description] = {}
        async with self._asking():
            scan = await NatsScan.open(
                self._connection, self._topology, self._stream, [f"$O.{self._name}.M.>"], 1, None
            )
            try:
                while page := await scan.read():
                    for message in page:
                        body = json.loads(message.data)
                        found[body["name"]] = _Description.read(body, message.sequence, message.time_ns)
            finally:
                await scan.close()
        return found

    async def _next_chunk(self, nuid: str, sequence: int) -> api.RawStreamMsg | None:
        """Return the first chunk from `sequence` on; None if there is none."""
        subject = self._chunk_subject(nuid)
        async with self._asking():
            try:
                return await self._js.get_msg(self._stream, sequence, subject, direct=True, next=True)
            except (nats.js.errors.NotFoundError, nats.errors.NoRespondersError):
                # A replica may be behind, and other clients' stores may forbid asking it: the leader knows.
                return await self._from_leader(sequence, subject)

    async def _from_leader(self, sequence: int, subject: str) -> api.RawStreamMsg | None:
        try:
            return await self._js.get_msg(self._stream, sequence, subject, next=True)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == _NO_STREAM:
                raise
            return None

    async def _find(self, name: str) -> _Description | None:
        """Return what describes the object, a deletion too; None if there is nothing. Raises NotFoundError."""
        async with self._asking():
            try:
                message = await self._js.get_last_msg(self._stream, self._name_subject(name))
            except nats.js.errors.NotFoundError as error:
                if error.err_code == _NO_STREAM:
                    raise
                return None
        return _Description.read(json.loads(message.data or b"{}"), message.seq or 0, _time_ns(message))

    async def _existing(self, name: str) -> _Description:
        check_object_name(name)
        found = await self._find(name)
        if found is None or found.deleted:
            raise NotFoundError(f"object store {self._name} has no object {name!r}")
        return found

    async def _loss(self, name: str, known: _Description) -> BusError:
        """Return why a chunk of an object is missing."""
        now = await self._find(name)
        if now is None or now.sequence != known.sequence:
            return RevisionError(f"object {name!r} was replaced or removed while it was read; read it again")
        return CorruptObjectError(
            f"object {name!r} of object store {self._name} lacks chunks, which expired or were removed"
        )

    # --- asking ---

    def _chunk_subject(self, nuid: str) -> str:
        return f"$O.{self._name}.C.{nuid}"

    def _name_subject(self, name: str) -> str:
        return f"$O.{self._name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _missing(self) -> NotFoundError:
        return NotFoundError(f"there is no object store {self._name}")

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Turn nats-py's errors into ours, with the name of the store."""
        try:
            async with translated(self._connection):
                yield
        except NotFoundError as error:
            raise self._missing() from error
        except StreamFullError as error:
            raise StreamFullError(
                f"object store {self._name} is full; delete objects, or raise its max_bytes"
            ) from error


def _time_ns(message: api.RawStreamMsg) -> int:
    return round(message.time.timestamp() * 1e9) if message.time else 0


def _digest_text(digest: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(digest).decode()}"


def _hex_of(digest: str) -> str:
    """Return the hash of a description, "" for one of another kind or for none."""
    kind, _, text = digest.partition("=")
    try:
        return base64.urlsafe_b64decode(text).hex() if kind == "SHA-256" else ""
    except binascii.Error:
        return ""


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _resized(chunks: AsyncIterable[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in chunks of `size_bytes`, the last one excepted."""
    begun = bytearray()
    async for chunk in chunks:
        # Piece by piece, because one chunk may be the whole object.
        for start in range(0, len(chunk), size_bytes):
            begun += chunk[start : start + size_bytes]
            if len(begun) >= size_bytes:
                yield bytes(begun[:size_bytes])
                del begun[:size_bytes]
    if begun:
        yield bytes(begun)
