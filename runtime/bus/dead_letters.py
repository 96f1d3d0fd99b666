"""Storing a dead letter: the input as it arrived, and everything about its end in one header."""

import logging
import sys
from dataclasses import replace

from runtime import wire
from runtime.bus.base import Bus, Confirmation, Publisher
from runtime.bus.claims import Claims, copy_claim
from runtime.clock import Clock
from runtime.deadletter import HEADER, DeadLetter
from runtime.errors import CorruptObjectError, DecodeError, MessageTooLargeError, NotFoundError
from runtime.message import Claim
from runtime.wire import MAX_CLAIM_BYTES

log = logging.getLogger(__name__)

# Bytes that the id header and the header block's own lines add beside the dead letter's header.
_HEADER_BYTES = 512


class LetterClaims:
    """Keeps the payloads of dead letters that are larger than a message, in a store where they live as long as these.

    The workflow's own store loses a payload with the message that it belongs to.
    """

    def __init__(self, bus: Bus, store: str, letter_store: str, clock: Clock) -> None:
        self._bus = bus
        self._store = store
        self._letter_store = letter_store
        # As many as there are letters: nobody waits behind them.
        self._claims = Claims(bus, letter_store, clock, room_bytes=sys.maxsize, max_bytes=MAX_CLAIM_BYTES)

    async def keep(self, data: bytes, limit_bytes: int, name: str) -> bytes:
        """Return the body of a letter for an input; its payload lies under `name` if it is larger than a message.

        An input whose payload is gone or corrupt is returned as it is. Raises BusError, MessageTooLargeError.
        """
        claim = claim_of(data)
        if claim is None:
            fits = len(data) <= limit_bytes - wire.HEADER_ROOM_BYTES
            return data if fits else await self._claims.fit(data, limit_bytes, lambda _: name)
        try:
            return await copy_claim(self._bus, data, claim, self._store, self._letter_store, name)
        except (NotFoundError, CorruptObjectError) as error:
            log.warning("the payload of a dead letter is lost: %s", error, extra={"action": "dead"})
            return data


async def store_dead_letter(
    publisher: Publisher,
    subject: str,
    data: bytes,
    letter: DeadLetter,
    *,
    message_id: str,
    claims: LetterClaims | None = None,
) -> None:
    """Store one dead letter; returns once it is stored. Raises BusError.

    claims: for a payload that is larger than a message; without it such a payload is left out, or left where it is.
    """
    if claims is not None:
        data = await claims.keep(data, publisher.limit_bytes, message_id)
    body = _body(data, publisher.limit_bytes)
    letter = replace(letter, left_out=bool(data) and not body)
    room_bytes = publisher.limit_bytes - len(body) - _HEADER_BYTES
    stored = Confirmation()
    await publisher.publish(
        subject, body, message_id=message_id, confirm=stored, headers={HEADER: letter.to_header(room_bytes)}
    )
    await stored


def claim_of(data: bytes) -> Claim | None:
    """Return the claim of an envelope, None for one without, or for bytes that are none."""
    try:
        return wire.decode(data, takes_claims=True).claim
    except DecodeError:
        return None


def _body(data: bytes, limit_bytes: int) -> bytes:
    """Return the input as it arrived; gzipped, or at worst left out, where it leaves no room for the header."""
    try:
        return wire.fit(data, limit_bytes)
    except MessageTooLargeError:  # another sender's: ours leave that room. The stream still has it.
        log.warning("an input of %d bytes does not fit into its dead letter; it is left out", len(data))
        return b""
