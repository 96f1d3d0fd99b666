"""The claim check: payloads that are larger than a message lie in an object store, and their envelopes say where.

An envelope then has a claim in the place of its payload: name, size and hash of an object. Each message has an object
of its own, which is there before the message is published. It is named after the message's id and its content: sent
again, it replaces itself, and where a handler answers otherwise the next time, the first answer stays as it was. Who
removes objects is the manager of a workflow, see `deploy/claims.py`.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from runtime import wire
from runtime.bus.base import GIVE_UP_S, Bus
from runtime.bus.object_store import ObjectStore
from runtime.clock import Clock
from runtime.errors import (
    BusClosedError,
    BusError,
    BusUnavailableError,
    DecodeError,
    MessageTooLargeError,
    NotFoundError,
    RevisionError,
    StreamFullError,
)
from runtime.message import Claim
from runtime.wire import HEADER_ROOM_BYTES

log = logging.getLogger(__name__)

# Times that an object is read anew because its sender has put it again meanwhile.
READ_TRIES = 5
# Seconds before a payload is put again that the store did not take: the first pause and the longest.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.05, 0.5


class Claims:
    """Puts and fetches the payloads of one workflow's messages."""

    def __init__(
        self, bus: Bus, store: str, clock: Clock, *, room_bytes: int, max_bytes: int, give_up_s: float = GIVE_UP_S
    ) -> None:
        """Prepare; nothing is asked.

        room_bytes: how full this sender may make the store. The rest is for those behind it: they have to put what
        they make of a payload before they let go of it. max_bytes: of one payload. give_up_s: how long one is put
        again that the store does not take.
        """
        self._bus = bus
        self._store = store
        self._clock = clock
        self._room_bytes = room_bytes
        self._max_bytes = max_bytes
        self._give_up_s = give_up_s
        # Bytes that are on their way into the store, which does not count them yet.
        self._putting_bytes = 0

    def check(self, size_bytes: int) -> None:
        """Raise MessageTooLargeError for a payload that is never taken, however long one waits."""
        if size_bytes > self._max_bytes:
            raise MessageTooLargeError(
                f"a payload of {size_bytes:,} bytes is larger than {self._max_bytes:,}; send less, or raise"
                " KRT_MAX_CLAIM_BYTES"
            )
        if size_bytes > self._room_bytes:
            raise MessageTooLargeError(
                f"a payload of {size_bytes:,} bytes is larger than the {self._room_bytes:,} that its sender may use of"
                f" object store {self._store}; send less, or raise the workflow's stream.max_bytes"
            )

    async def fit(self, data: bytes, limit_bytes: int, name: Callable[[str], str]) -> bytes:
        """Return what to publish for an envelope that is too large: gzipped, or else with a claim for its payload.

        name: returns the object's name for the hash of the payload, in hexadecimal digits. Raises MessageTooLargeError,
        and StreamFullError or BusUnavailableError when the store has not taken the payload for `give_up_s`.
        """
        self.check(len(data))
        packed = await asyncio.to_thread(wire.squeeze, data, limit_bytes - HEADER_ROOM_BYTES)
        if packed is not None:
            return packed
        payload, rest = wire.detach_payload(data)
        digest = await asyncio.to_thread(digest_of, payload)
        claim = Claim(object=name(digest), size=len(payload), sha256=digest)
        await self._put(claim.object, payload)
        return wire.fit(wire.with_claim(rest, claim), limit_bytes)

    async def fetch(self, claim: Claim) -> bytes:
        """Return the payload.

        Raises DecodeError with the reason `claim` for one that is gone or not what was claimed; BusUnavailableError,
        RevisionError, BusClosedError for what passes.
        """
        kept = "it is removed when its message is done"
        return await fetch_claim(self._bus, self._store, claim, max_bytes=self._max_bytes, kept=kept)

    async def _put(self, name: str, payload: bytes) -> None:
        """Put until the store takes it: a handler is not called again because the store was full for a while."""
        ends_s = self._clock.monotonic() + self._give_up_s
        delay_s = BACKOFF_FIRST_S
        while True:
            try:
                return await self._put_once(name, payload)
            except (StreamFullError, BusUnavailableError) as error:
                if self._clock.monotonic() >= ends_s:
                    raise
                if delay_s == BACKOFF_FIRST_S:
                    log.warning("a payload waits: %s; trying again", error, extra={"action": "hold"})
            await self._clock.sleep(delay_s)
            delay_s = min(2 * delay_s, BACKOFF_MAX_S)

    async def _put_once(self, name: str, payload: bytes) -> None:
        try:
            objects = await self._bus.object_store(self._store)
            used_bytes = await objects.size_bytes() + self._putting_bytes
            if used_bytes + len(payload) > self._room_bytes:
                raise StreamFullError(f"object store {self._store} is full, until its messages are done")
            self._putting_bytes += len(payload)
            try:
                await objects.put(name, payload)
            finally:
                self._putting_bytes -= len(payload)
        except NotFoundError as error:
            raise BusUnavailableError(f"{error}; the workflow's manager makes it") from error


async def fetch_claim(bus: Bus, store: str, claim: Claim, *, max_bytes: int, kept: str) -> bytes:
    """Return what is claimed, never allocating much more than was told. kept: says how long it is there.

    Raises as `Claims.fetch` does.
    """
    if not 0 <= claim.size <= max_bytes:
        raise _unclaimed(f"an object of {claim.size:,} bytes is claimed; {max_bytes:,} are taken (KRT_MAX_CLAIM_BYTES)")
    try:
        data = await _read(await bus.object_store(store), claim)
    except (BusUnavailableError, BusClosedError, RevisionError):
        raise
    except BusError as error:
        raise _unclaimed(f"what is claimed cannot be fetched, {kept}: {error}") from error
    if len(data) != claim.size or await asyncio.to_thread(digest_of, data) != claim.sha256.lower():
        raise _unclaimed(f"object {claim.object!r} of object store {store} is not what was claimed")
    return data


async def copy_claim(bus: Bus, data: bytes, claim: Claim, store: str, other_store: str, name: str) -> bytes:
    """Copy what an envelope claims from one store to another; returns the envelope with a claim of the copy.

    Raises NotFoundError, CorruptObjectError when there is nothing to copy, StreamFullError, BusUnavailableError.
    """
    objects = await bus.object_store(store)
    await (await bus.object_store(other_store)).put_stream(name, objects.get_stream(claim.object))
    return wire.with_claim(data, replace(claim, object=name))


def digest_of(data: bytes) -> str:
    """Return the hash that claims have, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


async def _read(objects: ObjectStore, claim: Claim) -> bytes:
    for _ in range(READ_TRIES - 1):
        try:
            return await _read_once(objects, claim)
        except RevisionError:
            continue
    return await _read_once(objects, claim)


async def _read_once(objects: ObjectStore, claim: Claim) -> bytes:
    """Read the object, and not much more than was claimed."""
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in objects.get_stream(claim.object):
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > claim.size:
            break
    return b"".join(chunks)


def _unclaimed(what: str) -> DecodeError:
    return DecodeError(what, reason="claim")
