"""Removes payloads from a workflow's object store once nobody needs them: a part of the manager.

An object belongs to one message, whose id and subject are in its name, and goes when all that read that subject are
done with the message. Which one it is stands in the stream: messages of the subjects that have objects are read once
each, from the first on that is not done. An object without a message was put by a sender that died before it published,
or that publishes again what the stream has already; it goes when nobody can be about to publish for it any more.
"""

import logging
import math
from collections.abc import Mapping, Sequence

from runtime.bus.base import Bus, ConsumerState, StoredMessage, StreamState
from runtime.bus.object_store import ObjectInfo, ObjectStore
from runtime.bus.subjects import matches
from runtime.clock import Clock
from runtime.deploy.retention import PRESSED_SHARE, done_sequence
from runtime.errors import NotFoundError
from runtime.spec.claims import ClaimsSpec, read_claim_object
from runtime.spec.names import MESSAGE_ID_HEADER

log = logging.getLogger(__name__)

# Seconds from a put on in which its message may still come: longer than senders try, see `bus.base.GIVE_UP_S`, also
# where one sends many payloads at once.
ORPHAN_S = 600.0
# Seconds that a caller has to fetch an answer, from when it was put; and where the store is about to refuse.
ANSWER_S, ANSWER_PRESSED_S = 60.0, 10.0
# Seconds between two looks at what dead senders have begun and not ended.
UNFINISHED_EVERY_S = 60.0
# By how much the times of two streams may differ, in nanoseconds: their leaders may be two servers.
SKEW_NS = 10**9


class ClaimKeeper:
    """Looks after one store; `look` is called again and again."""

    def __init__(self, bus: Bus, stream: str, claims: ClaimsSpec, clock: Clock) -> None:
        """claims: of the senders of requests, who are refused first."""
        self._bus = bus
        self._stream = stream
        self._store = claims.store
        self._room_bytes = claims.room_bytes
        self._clock = clock
        # Name of an object -> the newest message that it belongs to.
        self._messages: dict[str, StoredMessage] = {}
        # Sequence of the next message to read, None before the first look.
        self._next: int | None = None
        self._unfinished_due_s = -math.inf

    async def look(self, state: StreamState, consumers: Sequence[ConsumerState]) -> bool:
        """Remove what is not needed any more; returns whether the store was about to refuse.

        state: of the stream, read before its consumers. Raises BusError.
        """
        done = done_sequence(state.last_sequence, consumers)
        store = await self._bus.object_store(self._store)
        if self._next is None or self._next > state.last_sequence + 1:  # the stream was made anew
            self._next = done + 1
        size_bytes = await store.size_bytes()
        if size_bytes == 0:
            self._messages.clear()
            self._next = max(self._next, done + 1)
            return False
        await self._discard_unfinished(store)
        objects = await store.describe_all()
        await self._read_messages(objects, state.last_sequence)
        is_pressed = size_bytes >= self._room_bytes * PRESSED_SHARE
        answer_s = ANSWER_PRESSED_S if is_pressed else ANSWER_S
        await self._remove(store, [info.name for info in objects if self._is_over(info, state, consumers, answer_s)])
        return is_pressed

    async def _read_messages(self, objects: Sequence[ObjectInfo], last: int) -> None:
        """Find the messages of the objects up to `last`; those behind it may belong to objects that were put since."""
        named = {info.name: place for info in objects if (place := read_claim_object(info.name)) is not None}
        self._messages = {name: message for name, message in self._messages.items() if name in named}
        by_message: dict[tuple[str, str], list[str]] = {}
        for name, place in named.items():
            by_message.setdefault((place.subject, place.message_id), []).append(name)
        subjects = sorted({place.subject for place in named.values()})
        assert self._next is not None, "set by look"
        if subjects and self._next <= last:
            await self._scan(subjects, by_message, last)
        self._next = last + 1

    async def _scan(self, subjects: Sequence[str], by_message: Mapping[tuple[str, str], list[str]], last: int) -> None:
        scan = await self._bus.scan(self._stream, subjects=subjects, first_sequence=self._next or 1)
        try:
            while page := await scan.read():
                for message in page:
                    message_id = message.headers.get(MESSAGE_ID_HEADER, "")
                    for name in by_message.get((message.subject, message_id), ()):
                        self._messages[name] = message
                if page[-1].sequence >= last:
                    return
        finally:
            await scan.close()

    def _is_over(
        self, info: ObjectInfo, state: StreamState, consumers: Sequence[ConsumerState], answer_s: float
    ) -> bool:
        place = read_claim_object(info.name)
        if place is None:  # somebody else's
            return False
        message = self._messages.get(info.name)
        age_s = (self._clock.time_ns() - info.stored_ns) / 1e9
        readers = [consumer for consumer in consumers if _reads(consumer, place.subject)]
        if message is not None and readers and message.sequence > done_sequence(state.last_sequence, readers):
            return False
        # Put again after its message was stored, it may be for another one: beyond the dedup window an id is new.
        if message is None or message.time_ns < info.stored_ns - SKEW_NS:
            return age_s >= ORPHAN_S
        return age_s >= answer_s or not place.is_answer

    async def _remove(self, store: ObjectStore, names: Sequence[str]) -> None:
        removed = 0
        for name in names:
            try:
                await store.delete(name)
                removed += 1
            except NotFoundError:  # another manager was faster
                continue
        if removed:
            log.debug("removed %d payloads of %s", removed, self._stream, extra={"action": "unclaimed"})

    async def _discard_unfinished(self, store: ObjectStore) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._unfinished_due_s:
            self._unfinished_due_s = now_s + UNFINISHED_EVERY_S
            await store.discard_unfinished(self._clock.time_ns() - round(ORPHAN_S * 1e9))


def _reads(consumer: ConsumerState, subject: str) -> bool:
    filters = consumer.filter_subjects
    return not filters or any(matches(pattern, subject) for pattern in filters)
