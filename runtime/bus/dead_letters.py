"""Storing a dead letter: the input as it arrived, and everything about its end in one header."""

import logging
from dataclasses import replace

from runtime import wire
from runtime.bus.base import Confirmation, Publisher
from runtime.deadletter import HEADER, DeadLetter
from runtime.errors import MessageTooLargeError

log = logging.getLogger(__name__)

# Bytes that the id header and the header block's own lines add beside the dead letter's header.
_HEADER_BYTES = 512


async def store_dead_letter(
    publisher: Publisher, subject: str, data: bytes, letter: DeadLetter, *, message_id: str
) -> None:
    """Store one dead letter; returns once it is stored. Raises BusError."""
    body = _body(data, publisher.limit_bytes)
    letter = replace(letter, left_out=bool(data) and not body)
    room_bytes = publisher.limit_bytes - len(body) - _HEADER_BYTES
    stored = Confirmation()
    await publisher.publish(
        subject, body, message_id=message_id, confirm=stored, headers={HEADER: letter.to_header(room_bytes)}
    )
    await stored


def _body(data: bytes, limit_bytes: int) -> bytes:
    """Return the input as it arrived; gzipped, or at worst left out, where it leaves no room for the header."""
    try:
        return wire.fit(data, limit_bytes)
    except MessageTooLargeError:  # another sender's: ours leave that room. The stream still has it.
        log.warning("an input of %d bytes does not fit into its dead letter; it is left out", len(data))
        return b""
