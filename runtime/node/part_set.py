"""A set of parts that a join waits for: what there is of it, and what one more part makes of it. Pure."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import orjson

from runtime import wire
from runtime.errors import DecodeError

# Sets of one key that are remembered: more than one only where the key comes again, as a state id does.
MAX_REMEMBERED = 16


class End(StrEnum):
    """How a set has ended; NONE while it waits."""

    NONE = ""
    COMPLETE = "complete"
    TIMEOUT = "timeout"
    ERROR = "error"


class Part(NamedTuple):
    """One message for a join. identity: the same for every delivery of it, and for it when it is redriven.

    stored_ns: of this delivery's message. redriven: it was a dead letter before.
    """

    name: str
    identity: str
    data: bytes
    stored_ns: int
    redriven: bool


class Kept(NamedTuple):
    """A part that is kept; without its data once the set was handled."""

    identity: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSet:
    """What there is of one set.

    opener: identity of the part whose delivery comes again when the set's time is over. opened_ns: when that time
    began. closer: identity of the part whose delivery handles the ended set. is_done: it was handled.
    """

    opener: str
    opened_ns: int
    parts: Mapping[str, Kept]
    closer: str = ""
    end: End = End.NONE
    is_done: bool = False

    def holds(self, identity: str) -> bool:
        return self.closer == identity or any(kept.identity == identity for kept in self.parts.values())

    def finished(self) -> "PartSet":
        """Return the set after it was handled: what is needed to know its parts again."""
        return replace(self, is_done=True, parts={name: Kept(kept.identity, b"") for name, kept in self.parts.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a join wants. names: of all parts. is_unique: a key has one set, so that every further part is late."""

    names: frozenset[str]
    timeout_ns: int
    partial: bool
    is_unique: bool

    def add(self, sets: tuple[PartSet, ...], part: Part, now_ns: int) -> tuple[tuple[PartSet, ...], PartSet]:
        """Return the sets of a key with a part in them, and the set that the part belongs to."""
        mine = self._set_of(sets, part)
        if mine is None:
            opened = PartSet(
                opener=part.identity, opened_ns=part.stored_ns, parts={part.name: Kept(part.identity, part.data)}
            )
            return _remember((*sets, opened)), opened
        changed = self._changed(mine, part, now_ns)
        return tuple(changed if each is mine else each for each in sets), changed

    def give_up(self, sets: tuple[PartSet, ...], part: Part) -> tuple[PartSet, ...]:
        """Return the sets after a part has failed for good: the others need not wait for it."""
        mine = self._set_of(sets, part)
        if mine is not None and mine.end is not End.NONE:
            return sets
        waiting = mine or PartSet(opener="", opened_ns=part.stored_ns, parts={})
        ended = replace(waiting, closer=part.identity, end=End.ERROR).finished()
        return _remember((*(each for each in sets if each is not mine), ended))

    def _set_of(self, sets: tuple[PartSet, ...], part: Part) -> PartSet | None:
        """Return the set that has the part, else the one that it is for, else None: it begins one."""
        for each in sets:
            if each.holds(part.identity):
                return each
        if self.is_unique:
            return sets[0] if sets else None
        return next((each for each in sets if each.end is End.NONE and part.name not in each.parts), None)

    def _changed(self, mine: PartSet, part: Part, now_ns: int) -> PartSet:
        if mine.end is End.NONE and mine.holds(part.identity):
            is_over = mine.opener == part.identity and now_ns >= mine.opened_ns + self.timeout_ns
            return replace(mine, closer=part.identity, end=End.TIMEOUT) if is_over else mine
        if mine.end is End.NONE or self._may_be_late(mine):
            added = self._with(mine, part)
            if mine.end is End.NONE:
                return self._completed(added, part)
            return self._reopened(added, part, now_ns)
        return mine

    def _may_be_late(self, mine: PartSet) -> bool:
        """Say whether parts still count: a set that is a dead letter may be redriven, and then wants them."""
        return mine.end is End.TIMEOUT and not self.partial

    def _with(self, mine: PartSet, part: Part) -> PartSet:
        if part.name in mine.parts:  # the first message counts
            return mine
        return replace(mine, parts={**mine.parts, part.name: Kept(part.identity, part.data)})

    def _completed(self, mine: PartSet, part: Part) -> PartSet:
        if mine.parts.keys() < self.names or not mine.holds(part.identity):
            return mine
        return replace(mine, closer=part.identity, end=End.COMPLETE)

    def _reopened(self, mine: PartSet, part: Part, now_ns: int) -> PartSet:
        """Let a redriven set wait again, for its whole time from the redrive on."""
        if not part.redriven or mine.closer != part.identity or now_ns >= part.stored_ns + self.timeout_ns:
            return mine
        opened = replace(mine, opener=part.identity, opened_ns=part.stored_ns, closer="", end=End.NONE)
        return self._completed(opened, part)


def encode(sets: tuple[PartSet, ...]) -> bytes:
    """Return the sets of a key as JSON."""
    return orjson.dumps(
        [
            {
                "opener": each.opener,
                "opened_ns": each.opened_ns,
                "parts": {name: [kept.identity, b64encode(kept.data).decode()] for name, kept in each.parts.items()},
                "closer": each.closer,
                "end": each.end,
                "is_done": each.is_done,
            }
            for each in sets
        ]
    )


def decode(data: bytes) -> tuple[PartSet, ...]:
    """Read what a bucket holds. Raises DecodeError for what no join has written."""
    try:
        if data.startswith(wire.GZIP_MAGIC):
            data = wire.inflate(data, wire.MAX_INFLATED_BYTES)
        return tuple(
            PartSet(
                opener=found["opener"],
                opened_ns=found["opened_ns"],
                parts={name: Kept(identity, b64decode(kept)) for name, (identity, kept) in found["parts"].items()},
                closer=found["closer"],
                end=End(found["end"]),
                is_done=found["is_done"],
            )
            for found in orjson.loads(data)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"what is kept for a join is no set of parts: {error!r}", reason="join") from error


def _remember(sets: tuple[PartSet, ...]) -> tuple[PartSet, ...]:
    """Forget the oldest sets beyond the limit, those that were handled first."""
    excess = len(sets) - MAX_REMEMBERED
    if excess <= 0:
        return sets
    oldest = sorted(range(len(sets)), key=lambda number: (not sets[number].is_done, number))[:excess]
    return tuple(each for number, each in enumerate(sets) if number not in oldest)
