"""A join: gathers the parts of a set, wherever and whenever they come, and hands the whole set to the handler.

    read       the sets of the part's key; their revision is what the write insists on
    add        compare-and-set of the sets with the part among them; from here on the part cannot be lost
    complete   this delivery calls the handler with all parts, and ends as any other delivery does
    waiting    the first part's delivery is given back until the time of its set is over, so that the server is the
               clock, and no process needs to live; any other part is acknowledged
    done       the set is remembered without its data, for parts that come again or late

Which delivery handles a set is written down with it, so that after a crash that one does, and no other.
"""

import asyncio
import dataclasses
import logging
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pydantic

from runtime import wire
from runtime.bus.base import Entry, KeyValue
from runtime.clock import Clock
from runtime.errors import (
    DecodeError,
    HandlerLoadError,
    JoinTimeoutError,
    MessageTooLargeError,
    NotFoundError,
    RevisionError,
)
from runtime.message import Message
from runtime.node.gate import Call
from runtime.node.handler import LoadedHandler
from runtime.node.part_set import End, Part, PartSet, Rules, decode, encode
from runtime.node.work import Work
from runtime.payload import decode_value, decoder_for
from runtime.spec import names
from runtime.spec.join import JoinSpec

log = logging.getLogger(__name__)

# Tries of a compare-and-set before the message is given back: parts of one set often come at the same moment.
MAX_TRIES = 20

Payloads = Mapping[str, bytes]


class Joins:
    """The sets of one node, shared by its replicas. See `node/gate.py`."""

    def __init__(
        self,
        bucket: KeyValue,
        spec: JoinSpec,
        decode_parts: Callable[[Payloads], Any],
        decode_message: Callable[[bytes], Message],
        clock: Clock,
        limit_bytes: Callable[[], int],
    ) -> None:
        self._bucket = bucket
        self._spec = spec
        self._decode_parts = decode_parts
        self._decode_message = decode_message
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._rules = Rules(
            names=frozenset(spec.parts.values()),
            timeout_ns=round(spec.timeout_s * 1e9),
            partial=spec.partial,
            is_unique=spec.key == "request_id",
        )

    async def handle(self, work: Work, call: Call, data: Any) -> None:
        key, part = self._key_of(work.message), self._part_of(work)
        mine: PartSet | None = None

        def add(sets: tuple[PartSet, ...]) -> tuple[PartSet, ...]:
            nonlocal mine
            sets, mine = self._rules.add(sets, part, self._clock.time_ns())
            return sets

        await self._change(key, add)
        assert mine is not None, "a part always has a set"
        if mine.closer == part.identity and not mine.is_done:
            await self._handle_set(work, mine, call)
            if not work.overdue:
                await self._change(key, lambda sets: _finished(sets, part.identity))
            return
        work.replied = True  # the caller is to hear of the set, not of the end of one part's delivery
        if mine.end is End.NONE and mine.opener == part.identity:
            left_ns = mine.opened_ns + self._rules.timeout_ns - self._clock.time_ns()
            work.wait_s = max(left_ns / 1e9, 0.0)
        elif mine.end is not End.NONE:
            fields = {"action": "late", "request_id": work.message.request_id}
            log.debug("part %s of '%s' comes again or late: %s", part.name, key, mine.end, extra=fields)

    async def skip(self, work: Work) -> None:
        part = self._part_of(work)
        await self._change(self._key_of(work.message), lambda sets: self._rules.give_up(sets, part))

    async def _handle_set(self, work: Work, mine: PartSet, call: Call) -> None:
        missing = [name for name in self._spec.parts.values() if name not in mine.parts]
        if mine.end is End.TIMEOUT and not self._spec.partial:
            raise JoinTimeoutError(f"{', '.join(missing)} did not come within {self._spec.timeout_s:g} s")
        present = {name: mine.parts[name].data for name in self._spec.parts.values() if name in mine.parts}
        messages = {name: self._decode_message(data) for name, data in present.items()}
        # The first part as the file lists them, whichever came last: outputs carry the same after every crash.
        first = next(iter(messages.values()))
        work.message = first._replace(request_id=first.request_id or work.message.request_id)
        await call(self._decode_parts({name: message.payload for name, message in messages.items()}))

    def _key_of(self, message: Message) -> str:
        """Return what the parts of a set have in common. Raises DecodeError for a message that does not have it."""
        header = self._spec.key.removeprefix("header.")
        if header == self._spec.key:
            return message.request_id if self._rules.is_unique else message.state_id
        if header not in message.headers:
            raise DecodeError(f"the message has no header '{header}', by which its parts are joined", reason="join")
        return message.headers[header]

    def _part_of(self, work: Work) -> Part:
        """Return the delivery as a part. Raises MessageTooLargeError for one that no entry of the bucket could hold."""
        if (claim := work.message.claim) is not None:
            raise MessageTooLargeError(
                f"a part has {claim.size:,} bytes, and all parts of a set together have to fit into one message; send"
                " less, or the key of an object"
            )
        subject = names.unpartitioned_subject(names.source_subject(work.delivery.subject))
        return Part(
            name=self._spec.parts[subject],
            identity=f"{work.origin}/{work.message.request_id}",
            data=work.delivery.data,
            stored_ns=work.delivery.time_ns,
            redriven=work.redrive > 0,
        )

    # --- the bucket ---

    async def _change(self, key: str, change: Callable[[tuple[PartSet, ...]], tuple[PartSet, ...]]) -> None:
        """Write what `change` makes of the sets of a key; it is called again when somebody else was faster."""
        for _ in range(MAX_TRIES):
            stored = await self._read(key)
            before = decode(stored.value) if stored else ()
            after = change(before)
            if after == before:
                return
            try:
                await self._write(key, after, stored)
                return
            except RevisionError:
                await asyncio.sleep(0)
        raise RevisionError(f"the parts of '{key}' are written by others all the time")

    async def _read(self, key: str) -> Entry | None:
        try:
            return await self._bucket.get(names.state_key(key))
        except NotFoundError:
            return None

    async def _write(self, key: str, sets: tuple[PartSet, ...], before: Entry | None) -> None:
        data = encode(sets)
        try:
            data = wire.fit(data, self._limit_bytes())
        except MessageTooLargeError as error:
            raise MessageTooLargeError(
                f"the parts of '{key}' have {len(data):,} bytes together, and the server takes {self._limit_bytes():,}"
                " compressed; send less, or the key of an object"
            ) from error
        if before is None:
            await self._bucket.create(names.state_key(key), data)
        else:
            await self._bucket.update(names.state_key(key), data, before.revision)


def _finished(sets: tuple[PartSet, ...], closer: str) -> tuple[PartSet, ...]:
    return tuple(each.finished() if each.closer == closer else each for each in sets)


# --- what the handler gets ---


def without_decoding(handler: LoadedHandler) -> LoadedHandler:
    """Return a join's handler for the runner: it decodes no single part, and an ERROR in place of one is not for it."""
    default = handler.default
    plain = None if default is None else dataclasses.replace(default, decode=lambda _: None)
    return dataclasses.replace(handler, default=plain, handle_errors=False)


def parts_decoder(spec: JoinSpec, handler: LoadedHandler) -> Callable[[Payloads], Any]:
    """Return what makes the handler's data of the parts: a dict, or an instance of the class that it takes.

    Each field of a class is read by its own annotation. Raises HandlerLoadError for a class without a field for every
    part, or with a further one that has no default, or without a default for a part that may be missing.
    """
    if handler.default is None or handler.from_node_style:
        raise HandlerLoadError(f"{handler.path}: a node with 'join' needs a 'handler(ctx, data)', which gets all parts")
    kind = handler.default.annotation
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, pydantic.BaseModel)):
        return lambda payloads: {name: decode_value(payload) for name, payload in payloads.items()}
    required = _fields_of(kind)
    hints = typing.get_type_hints(kind)
    wanted = set(spec.parts.values())
    faults = [f"it has no field '{name}'" for name in sorted(wanted - required.keys())]
    faults += [f"field '{name}' is no part" for name in sorted(required) if required[name] and name not in wanted]
    if spec.partial:
        faults += [f"field '{name}' needs a default" for name in sorted(wanted & required.keys()) if required[name]]
    if faults:
        raise HandlerLoadError(f"{handler.path}: {kind.__name__} cannot hold the parts: {'; '.join(faults)}")
    decoders = {name: decoder_for(hints[name]) for name in wanted}
    return lambda payloads: kind(**{name: decoders[name](payload) for name, payload in payloads.items()})


def _fields_of(kind: type) -> dict[str, bool]:
    """Return the fields of a dataclass or model, and whether each has to be given."""
    if issubclass(kind, pydantic.BaseModel):
        return {name: field.is_required() for name, field in kind.model_fields.items()}
    absent = dataclasses.MISSING
    return {
        field.name: field.default is absent and field.default_factory is absent
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # the caller has asked
    }
