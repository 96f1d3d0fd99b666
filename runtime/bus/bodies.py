"""Bodies of requests and answers that may be larger than a message: sent as they are, gzipped, or as a claim.

A claim is a header that names an object in an object store, its size and its hash; the message then has no body of its
own. Sender and receiver know the store. Used by coordinators and hosts of models, and by algorithms; messages of a
workflow have a claim of their own inside their envelope, see `wire.py`.
"""

import asyncio
import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from runtime.bus.base import Bus, Headers
from runtime.bus.object_store import ObjectStore, ObjectStoreConfig
from runtime.errors import BusError, BusUnavailableError, DecodeError, MessageTooLargeError, NotFoundError
from runtime.wire import HEADER_ROOM_BYTES, MAX_CLAIM_BYTES, MAX_INFLATED_BYTES, inflate

# `gzip` when the body is compressed.
ENCODING_HEADER = "Krt-Encoding"
GZIP = "gzip"
# JSON {object, size, sha256} of a body that lies in an object store.
CLAIM_HEADER = "Krt-Claim"

# Seconds that a body is kept: longer than any request waits.
KEPT_S = 300.0
# Bytes that are compressed between two looks at how much has come out.
GZIP_STEP_BYTES = 1024 * 1024
# zlib's number for a gzip stream with the largest window.
_GZIP_WINDOW = zlib.MAX_WBITS | 16


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent for a body: the bytes of the message, and the headers that tell how to read them."""

    data: bytes
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Where a body lies, and what it has to be. object: its name. size: in bytes. sha256: in hexadecimal digits."""

    object: str
    size: int
    sha256: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a header. Raises DecodeError."""
        try:
            told = json.loads(text)
            if not isinstance(told, dict):
                raise ValueError("it is no object")
            claim = cls(object=told["object"], size=told["size"], sha256=told["sha256"])
        except (KeyError, RecursionError, ValueError) as error:
            raise _unclaimed(f"the header {CLAIM_HEADER} cannot be read: {error!r}") from error
        if not (isinstance(claim.object, str) and type(claim.size) is int and isinstance(claim.sha256, str)):
            raise _unclaimed(f"the header {CLAIM_HEADER} has a field of a wrong type")
        return claim

    def text(self) -> str:
        """Return the header's value."""
        return json.dumps(asdict(self))


async def pack(
    bus: Bus,
    store: str,
    data: bytes,
    *,
    room_bytes: int = HEADER_ROOM_BYTES,
    max_claim_bytes: int = MAX_CLAIM_BYTES,
) -> Body:
    """Return what to send for `data`, which may go to any number of receivers within `KEPT_S`.

    store: the object store for claims, which is made if it is missing. room_bytes: what the message needs besides, for
    its other headers. Raises MessageTooLargeError above `max_claim_bytes`, and what `ObjectStore.put` raises.
    """
    limit_bytes = bus.max_payload_bytes - room_bytes
    if len(data) <= limit_bytes:
        return Body(data, {})
    if len(data) > max_claim_bytes:
        raise MessageTooLargeError(
            f"a body of {len(data):,} bytes is larger than {max_claim_bytes:,}; send less, or raise KRT_MAX_CLAIM_BYTES"
        )
    packed = await asyncio.to_thread(_gzipped, data, limit_bytes)
    if packed is not None:
        return Body(packed, {ENCODING_HEADER: GZIP})
    return Body(b"", {CLAIM_HEADER: (await _stored(bus, store, data)).text()})


async def unpack(
    bus: Bus, store: str, data: bytes, headers: Mapping[str, str], *, max_bytes: int = MAX_CLAIM_BYTES
) -> bytes:
    """Return the body of a message that `pack` made, never allocating more than `max_bytes` for it.

    Raises DecodeError with the reason `gzip` or `claim`, and BusUnavailableError while NATS is away.
    """
    if CLAIM_HEADER in headers:
        return await _fetched(bus, store, Claim.read(headers[CLAIM_HEADER]), max_bytes)
    encoding = headers.get(ENCODING_HEADER, "")
    if not encoding:
        return data
    if encoding != GZIP:
        raise DecodeError(f"{ENCODING_HEADER} is {encoding!r}; only {GZIP} is known", reason="gzip")
    return await asyncio.to_thread(inflate, data, min(max_bytes, MAX_INFLATED_BYTES))


def _gzipped(data: bytes, limit_bytes: int) -> bytes | None:
    """Return `data` compressed, the same bytes every time; None as soon as that takes more than `limit_bytes`.

    None for more than the receiver unpacks, too.
    """
    if len(data) > MAX_INFLATED_BYTES:
        return None
    packer = zlib.compressobj(wbits=_GZIP_WINDOW)
    packed = bytearray()
    view = memoryview(data)
    for start in range(0, len(data), GZIP_STEP_BYTES):
        packed += packer.compress(view[start : start + GZIP_STEP_BYTES])
        if len(packed) > limit_bytes:
            return None
    packed += packer.flush()
    return bytes(packed) if len(packed) <= limit_bytes else None


async def _stored(bus: Bus, store: str, data: bytes) -> Claim:
    # A name of its own: an object that is replaced could not be read meanwhile.
    claim = Claim(object=secrets.token_hex(11), size=len(data), sha256=await asyncio.to_thread(_digest, data))
    try:
        objects = await bus.object_store(store)
    except NotFoundError:
        await bus.ensure_object_store(ObjectStoreConfig(name=store, max_age_s=KEPT_S))
        objects = await bus.object_store(store)
    await objects.put(claim.object, data)
    return claim


async def _fetched(bus: Bus, store: str, claim: Claim, max_bytes: int) -> bytes:
    if not 0 <= claim.size <= max_bytes:
        raise _unclaimed(f"a body of {claim.size:,} bytes is claimed; {max_bytes:,} are taken (KRT_MAX_CLAIM_BYTES)")
    try:
        data = await _read(await bus.object_store(store), claim)
    except BusUnavailableError:
        raise
    except BusError as error:
        raise _unclaimed(f"the body cannot be fetched, it is kept for {KEPT_S:g} s: {error}") from error
    if len(data) != claim.size or await asyncio.to_thread(_digest, data) != claim.sha256.lower():
        raise _unclaimed(f"object {claim.object!r} of object store {store} is not what was claimed")
    return data


async def _read(objects: ObjectStore, claim: Claim) -> bytes:
    """Read the object, and not much more than was claimed."""
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in objects.get_stream(claim.object):
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > claim.size:
            break
    return b"".join(chunks)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unclaimed(what: str) -> DecodeError:
    return DecodeError(what, reason="claim")
