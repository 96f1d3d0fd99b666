"""Bodies of requests and answers that may be larger than a message: sent as they are, gzipped, or as a claim.

A claim is a header that names an object in an object store, its size and its hash; the message then has no body of its
own. Sender and receiver know the store. Used by coordinators and hosts of models, and by algorithms; messages of a
workflow have the claim inside their envelope, see `claims.py`.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runtime.bus.base import Bus, Headers
from runtime.bus.claims import digest_of, fetch_claim
from runtime.bus.object_store import ObjectStoreConfig
from runtime.errors import DecodeError, MessageTooLargeError, NotFoundError
from runtime.message import Claim
from runtime.wire import HEADER_ROOM_BYTES, MAX_CLAIM_BYTES, MAX_INFLATED_BYTES, inflate, squeeze

# `gzip` when the body is compressed.
ENCODING_HEADER = "Krt-Encoding"
GZIP = "gzip"
# JSON {object, size, sha256} of a body that lies in an object store.
CLAIM_HEADER = "Krt-Claim"

# Seconds that a body is kept: longer than any request waits.
KEPT_S = 300.0


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent for a body: the bytes of the message, and the headers that tell how to read them."""

    data: bytes
    headers: Headers


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
    packed = await asyncio.to_thread(squeeze, data, limit_bytes)
    if packed is not None:
        return Body(packed, {ENCODING_HEADER: GZIP})
    return Body(b"", {CLAIM_HEADER: json.dumps(asdict(await _stored(bus, store, data)))})


async def unpack(
    bus: Bus, store: str, data: bytes, headers: Mapping[str, str], *, max_bytes: int = MAX_CLAIM_BYTES
) -> bytes:
    """Return the body of a message that `pack` made, never allocating more than `max_bytes` for it.

    Raises DecodeError with the reason `gzip` or `claim`, and BusUnavailableError while NATS is away.
    """
    if CLAIM_HEADER in headers:
        claim = _read_claim(headers[CLAIM_HEADER])
        return await fetch_claim(bus, store, claim, max_bytes=max_bytes, kept=f"it is kept for {KEPT_S:g} s")
    encoding = headers.get(ENCODING_HEADER, "")
    if not encoding:
        return data
    if encoding != GZIP:
        raise DecodeError(f"{ENCODING_HEADER} is {encoding!r}; only {GZIP} is known", reason="gzip")
    return await asyncio.to_thread(inflate, data, min(max_bytes, MAX_INFLATED_BYTES))


async def _stored(bus: Bus, store: str, data: bytes) -> Claim:
    # A name of its own: an object that is replaced could not be read meanwhile.
    claim = Claim(object=secrets.token_hex(11), size=len(data), sha256=await asyncio.to_thread(digest_of, data))
    try:
        objects = await bus.object_store(store)
    except NotFoundError:
        await bus.ensure_object_store(ObjectStoreConfig(name=store, max_age_s=KEPT_S))
        objects = await bus.object_store(store)
    await objects.put(claim.object, data)
    return claim


def _read_claim(text: str) -> Claim:
    """Read a header. Raises DecodeError."""
    try:
        told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError("it is no object")
        claim = Claim(object=told["object"], size=told["size"], sha256=told["sha256"])
    except (KeyError, RecursionError, ValueError) as error:
        raise _unclaimed(f"the header {CLAIM_HEADER} cannot be read: {error!r}") from error
    if not (isinstance(claim.object, str) and type(claim.size) is int and isinstance(claim.sha256, str)):
        raise _unclaimed(f"the header {CLAIM_HEADER} has a field of a wrong type")
    return claim


def _unclaimed(what: str) -> DecodeError:
    return DecodeError(what, reason="claim")
