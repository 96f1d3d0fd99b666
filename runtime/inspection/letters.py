"""Dead letters where they lie: found, read, and removed. Giving them back to their node is `redrive.py`."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from runtime.bus.base import Bus
from runtime.bus.dead_letters import claim_of
from runtime.bus.stored import StoredMessage
from runtime.deadletter import HEADER, DeadLetter
from runtime.errors import BusError, NotFoundError
from runtime.spec import names
from runtime.spec.claims import letter_claims_store

log = logging.getLogger(__name__)

# By how much the times of one message may differ that two requests to the server tell, in nanoseconds.
TIME_TOLERANCE_NS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter and its place. id: its sequence in the stream of dead letters; never given twice.

    died_ns: when it was stored, unix time in nanoseconds. body: the input as it arrived, b"" if it was left out.
    """

    id: int
    died_ns: int
    body: bytes
    letter: DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters: all that fit every field that is set. Times are unix times in nanoseconds, of the death."""

    node: str = ""
    reason: str = ""
    since_ns: int | None = None
    until_ns: int | None = None

    def selects(self, letter: Letter) -> bool:
        if self.since_ns is not None and letter.died_ns < self.since_ns:
            return False
        if self.until_ns is not None and letter.died_ns >= self.until_ns:
            return False
        return self.node in ("", letter.letter.node) and self.reason in ("", letter.letter.reason)


async def find(bus: Bus, stream: str, wanted: Wanted) -> AsyncIterator[Letter]:
    """Yield the dead letters of a workflow that are there now, oldest first; those that come meanwhile are left out.

    stream: the workflow's own. Raises NotFoundError when it keeps no dead letters, BusUnavailableError.
    """
    own = names.dead_letter_stream(stream)
    last = (await bus.stream_state(own)).last_sequence
    subjects = [names.dead_letter_subject(stream, wanted.node)] if wanted.node else []
    scan = await bus.scan(own, subjects=subjects, since_ns=wanted.since_ns)
    try:
        while page := await scan.read():
            for stored in page:
                if stored.sequence > last:
                    return
                letter = _read(stored)
                if letter is not None and wanted.selects(letter):
                    yield letter
    finally:
        await scan.close()


async def get(bus: Bus, stream: str, number: int) -> Letter:
    """Return one dead letter by its id. Raises NotFoundError, BusError for a message that is none."""
    own = names.dead_letter_stream(stream)
    try:
        stored = await bus.get_message(own, number)
    except NotFoundError as error:
        raise NotFoundError(f"there is no dead letter {number}: it was dropped, redriven or never there") from error
    letter = _read(stored)
    if letter is None:
        raise BusError(f"message {number} of {own} is no dead letter of ours; look at it with `nats stream get`")
    return letter


async def drop(bus: Bus, stream: str, letter: Letter) -> None:
    """Remove a dead letter for good; one that is gone already is no error. Raises BusUnavailableError."""
    try:
        await bus.delete_message(names.dead_letter_stream(stream), letter.id)
    except NotFoundError:
        log.debug("dead letter %d is gone already", letter.id)
    # After the letter, which would otherwise be there without its payload.
    if (claim := claim_of(letter.body)) is not None:
        try:
            await (await bus.object_store(letter_claims_store(stream))).delete(claim.object)
        except NotFoundError:
            log.debug("the payload of dead letter %d is gone already", letter.id)


async def input_of(bus: Bus, letter: Letter) -> bytes:
    """Return the input that was given up: the letter's body, or where that was too large, the stream's message.

    Its payload may lie in an object store, see `payloads.whole`. Raises NotFoundError when the stream does not have
    it any more.
    """
    died = letter.letter
    if not died.left_out:
        return letter.body
    try:
        stored = await bus.get_message(died.stream, died.sequence)
    except NotFoundError:
        stored = None
    # A stream that was deleted and made anew counts from 1 again.
    if stored is None or abs(stored.time_ns - died.stored_ns) > TIME_TOLERANCE_NS:
        raise NotFoundError(
            f"the input of dead letter {letter.id} was too large to lie beside it, and message {died.sequence} of"
            f" {died.stream} has been purged: it is lost; drop the letter, and send the request again"
        )
    return stored.data


def _read(stored: StoredMessage) -> Letter | None:
    """Return the letter in a stored message; None, and a warning, for anything else."""
    try:
        died = DeadLetter.from_header(stored.headers.get(HEADER, ""))
    except ValueError as error:
        log.warning("message %d on %s is no dead letter of ours: %s", stored.sequence, stored.subject, error)
        return None
    return Letter(id=stored.sequence, died_ns=stored.time_ns, body=stored.data, letter=died)
