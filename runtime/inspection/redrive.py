"""Giving dead letters back to the node that failed, and to no other reader of the same subject.

One letter at a time: publish its input under the id of this redrive, wait until it is stored, then delete the letter.
Interrupted in between, the letter is still there; the next redrive publishes under the same id, which the stream takes
for a repetition as long as its dedup window lasts, and deletes it.
"""

from dataclasses import dataclass
from types import TracebackType

from runtime.bus.base import Bus, Confirmation
from runtime.bus.claims import copy_claim
from runtime.bus.dead_letters import claim_of
from runtime.bus.stored import ConsumerState
from runtime.bus.subjects import matches
from runtime.deadletter import Attempt, DeadLetter, attempts_to_header
from runtime.errors import NotFoundError
from runtime.inspection.letters import Letter, drop, input_of
from runtime.spec import hops, names
from runtime.spec.claims import claim_object, claims_store, letter_claims_store

# Seconds to try to store one message in a stream that is full, before giving up: somebody is waiting at a terminal.
GIVE_UP_S = 10.0
# Bytes of a redriven message that its own headers take beside the input and the history.
HEADER_BYTES = 512
# Headers of a redrive, which the next one makes anew.
_OWN_HEADERS = (names.ORIGIN_HEADER, names.REDRIVE_HEADER, names.ATTEMPTS_HEADER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where a dead letter goes. others: durables beside the node's own that will handle it once more, too."""

    subject: str
    others: tuple[str, ...] = ()


class Redriver:
    """Redrives the dead letters of one workflow; use it with `async with`."""

    def __init__(self, bus: Bus, stream: str) -> None:
        self._bus = bus
        self._stream = stream
        self._publisher = bus.publisher(stream, give_up_s=GIVE_UP_S)
        self._consumers: list[ConsumerState] = []

    async def __aenter__(self) -> "Redriver":
        self._consumers = await self._bus.consumer_states(self._stream)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._publisher.close()

    def way(self, letter: Letter) -> Way:
        """Return where a letter would go. Raises NotFoundError when its node reads nothing of it any more."""
        died = letter.letter
        own_subject = names.redrive_subject(died.node, died.subject)
        if self._readers(own_subject):
            return Way(subject=own_subject)
        readers = self._readers(died.subject)
        others = tuple(name for name in readers if names.node_of(name) != died.node)
        if len(others) == len(readers):
            raise NotFoundError(
                f'node "{died.node}" does not read {died.subject} any more, so nobody would handle dead letter'
                f" {letter.id}; start the node again, or drop the letter"
            )
        return Way(subject=died.subject, others=others)

    async def redrive(self, letter: Letter) -> Way:
        """Give one letter back; returns once its input is stored and the letter is deleted.

        Cancelling it is safe, and so is repeating it. Raises NotFoundError (see `way` and `input_of`),
        MessageTooLargeError, StreamFullError, BusUnavailableError; the letter is still there then.
        """
        way = self.way(letter)
        died = letter.letter
        message_id = names.redrive_id(died.node, origin_of(died), died.redrive + 1, died.path)
        data = await self._with_payload(letter, await input_of(self._bus, letter), way.subject, message_id)
        stored = Confirmation()
        await self._publisher.publish(
            way.subject,
            data,
            message_id=message_id,
            confirm=stored,
            headers=_headers(died, self._publisher.limit_bytes - len(data)),
        )
        await stored
        # Only now: in the other order, an end of this process in between would lose the message.
        await drop(self._bus, self._stream, letter)
        return way

    async def _with_payload(self, letter: Letter, data: bytes, subject: str, message_id: str) -> bytes:
        """Return the input with a payload of its own, where that lies in an object store: the letter's goes with it."""
        claim = claim_of(data)
        if claim is None:
            return data
        own = claims_store(self._stream)
        store = own if letter.letter.left_out else letter_claims_store(self._stream)
        name = claim_object(subject, message_id, claim.sha256)
        return await copy_claim(self._bus, data, claim, store, own, name)

    def _readers(self, subject: str) -> list[str]:
        return [state.name for state in self._consumers if reads(state, subject)]


def reads(consumer: ConsumerState, subject: str) -> bool:
    """Say whether a durable gets the messages of a subject."""
    filters = consumer.filter_subjects
    return not filters or any(matches(pattern, subject) for pattern in filters)


def origin_of(died: DeadLetter) -> int:
    """Return the sequence that ids of outputs are made from: that of the first input."""
    return died.origin or died.sequence


def _headers(died: DeadLetter, room_bytes: int) -> dict[str, str]:
    """Return the input's own headers, those of the redrive, and as much of the history as there is room for."""
    own = {name: value for name, value in died.headers.items() if not _is_replaced(name)}
    headers = {
        **own,
        names.ORIGIN_HEADER: hops.place(origin_of(died), died.path),
        names.REDRIVE_HEADER: str(died.redrive + 1),
    }
    room_bytes -= HEADER_BYTES + sum(len(name) + len(value) for name, value in own.items())
    if history := attempts_to_header(_attempts(died), room_bytes):
        headers[names.ATTEMPTS_HEADER] = history
    return headers


def _is_replaced(header: str) -> bool:
    # Those of NATS would make the server refuse the message, or take it for the first one.
    return header.lower().startswith("nats-") or header in _OWN_HEADERS


def _attempts(died: DeadLetter) -> tuple[Attempt, ...]:
    """Return every attempt so far; a message that was given up without one counts as one that failed so."""
    if any(attempt.redrive == died.redrive for attempt in died.attempts):
        return died.attempts
    return (*died.attempts, Attempt(attempt=1, time_s=died.stored_ns / 1e9, error=died.error, redrive=died.redrive))
