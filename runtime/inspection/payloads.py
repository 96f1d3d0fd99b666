"""Payloads that lie in object stores because they are larger than a message, for those who look on."""

from dataclasses import replace

from runtime import wire
from runtime.bus.base import Bus
from runtime.bus.claims import fetch_claim
from runtime.bus.dead_letters import claim_of
from runtime.errors import NotFoundError
from runtime.inspection.seen import Seen
from runtime.spec.claims import claims_store, letter_claims_store


async def look_up(bus: Bus, stream: str, seen: Seen) -> Seen:
    """Say of a message of the stream whether its payload is still there, where it lies in the object store.

    Raises BusUnavailableError.
    """
    if seen.claim is None:
        return seen
    try:
        await (await bus.object_store(claims_store(stream))).describe(seen.claim.object)
    except NotFoundError:
        return replace(seen, claim_is_gone=True)
    return seen


async def whole(bus: Bus, stream: str, data: bytes, *, is_letter: bool) -> bytes:
    """Return an envelope with its payload inside, wherever that lies.

    is_letter: the envelope is the body of a dead letter. Raises DecodeError when the payload is gone or corrupt,
    BusUnavailableError.
    """
    claim = claim_of(data)
    if claim is None:
        return data
    store, kept = (
        (letter_claims_store(stream), "it is removed with its dead letter")
        if is_letter
        else (claims_store(stream), "it is removed when its message is done")
    )
    payload = await fetch_claim(bus, store, claim, max_bytes=wire.MAX_CLAIM_BYTES, kept=kept)
    return wire.encode(wire.decode(data, takes_claims=True)._replace(payload=payload, claim=None))
