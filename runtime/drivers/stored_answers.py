"""Answers that are in the workflow's stream and did not reach the driver: lost with a connection, or with a process.

An answer travels to the one who asked on core NATS, at most once; what the output node has sent stays in the stream
for a while all the same. So a request that has no answer in time, or was sent before a crash, is looked up there.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime import wire
from runtime.bus.base import Bus
from runtime.bus.claims import fetch_claim
from runtime.errors import DecodeError, NotFoundError
from runtime.message import Message, MessageType
from runtime.payload import decode_value
from runtime.spec.claims import claims_store


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a workflow: an output, or the text of an ERROR."""

    value: Any = None
    error: str = ""


def answer_of(message: Message) -> Answer | None:
    """Return the answer that a message of the output is; None for one without a payload. Raises DecodeError."""
    if message.type is MessageType.ERROR:
        return Answer(error=message.error or "the workflow answered with an error without a text")
    return Answer(decode_value(message.payload)) if message.payload else None


async def with_payload(bus: Bus, stream: str, message: Message) -> Message:
    """Return a message with its payload, which lies in an object store if it is larger than a message.

    Raises DecodeError when it is gone or corrupt; BusUnavailableError, RevisionError for what passes.
    """
    if message.claim is None:
        return message
    kept = "it is removed soon after its answer was given"
    store = claims_store(stream)
    payload = await fetch_claim(bus, store, message.claim, max_bytes=wire.MAX_CLAIM_BYTES, kept=kept)
    return message._replace(payload=payload)


class StoredAnswers:
    """Looks answers up; one reading of the stream serves everybody who waits at the time."""

    def __init__(self, bus: Bus, stream: str, subjects: Sequence[str]) -> None:
        """Prepare. subjects: of the workflow's outputs."""
        self._bus = bus
        self._stream = stream
        self._subjects = tuple(subjects)
        # Request id -> since when its answers may be there (unix time in nanoseconds).
        self._wanted: dict[str, int] = {}
        self._found: dict[str, list[int]] = {}
        self._reading = asyncio.Lock()

    async def of(self, request_id: str, since_ns: int) -> list[Answer]:
        """Return the stored answers to one request, in order. Raises BusUnavailableError, DecodeError."""
        self._wanted[request_id] = since_ns
        async with self._reading:
            if request_id in self._wanted:  # nobody before us has looked for it
                await self._look()
        return await self.read(self._found.pop(request_id, []))

    async def _look(self) -> None:
        wanted = dict(self._wanted)
        found = await self.index(wanted.__contains__, min(wanted.values()))
        for request_id in wanted:  # only now: after a failure, those who wait look again
            self._wanted.pop(request_id, None)
            self._found[request_id] = found.get(request_id, [])

    async def index(self, selects: Callable[[str], bool], since_ns: int) -> dict[str, list[int]]:
        """Return the sequences of the outputs stored since then, by request id, of those that `selects` takes."""
        found: dict[str, list[int]] = {}
        if not self._subjects:
            return found
        scan = await self._bus.scan(self._stream, subjects=self._subjects, since_ns=since_ns)
        try:
            while page := await scan.read():
                for stored in page:
                    try:
                        name = wire.decode(stored.data, takes_claims=True).request_id
                    except DecodeError:  # nobody's answer
                        continue
                    if selects(name):
                        found.setdefault(name, []).append(stored.sequence)
        finally:
            await scan.close()
        return found

    async def read(self, sequences: Sequence[int]) -> list[Answer]:
        """Return the answers at these sequences; one that has left the stream is left out. Raises as `of` does."""
        answers = []
        for sequence in sequences:
            try:
                stored = await self._bus.get_message(self._stream, sequence)
            except NotFoundError:
                continue
            message = await with_payload(self._bus, self._stream, wire.decode(stored.data, takes_claims=True))
            if (answer := answer_of(message)) is not None:
                answers.append(answer)
        return answers
