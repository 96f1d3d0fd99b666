"""`ctx.state`: one object for each state id of a node, kept together with what its last message gave rise to.

    read      entry of the state id; its revision is what the write insists on
    handle    on a copy of the state; outputs are held back
    keep      compare-and-set of state, input and outputs, before anything is published or acknowledged
    publish   the kept outputs, under the ids that they have in any case

So a message counts once, however often it is delivered: from `keep` on a redelivery only publishes again. Where two
replicas have the same message in hand, the slower one loses at `keep` and leaves nothing behind.
"""

import importlib
import logging
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from runtime import wire
from runtime.bus.base import Delivery, Entry, KeyValue
from runtime.errors import DecodeError, HandlerLoadError, MessageTooLargeError, NotFoundError
from runtime.message import MessageType
from runtime.node.gate import Call
from runtime.node.handler import LoadedHandler
from runtime.node.work import HeldOutput, Outputs, Work
from runtime.payload import decoder_for, encode_value
from runtime.spec import names

log = logging.getLogger(__name__)

# What a handler's module may call the class of its states, where the workflow file names none.
DEFAULT_CLASS = "State"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEntry:
    """What is kept for one state id: the state after its last message, that message, and its outputs.

    payload: the state, as `payload.encode_value` writes it; b"" for one that was never asked for. subject, sequence,
    stored_ns: of the message in its stream. origin: its sequence before it was redriven. first_number: that of the
    first output among the delivery's.
    """

    state_id: str
    payload: bytes
    request_id: str
    origin: int
    subject: str
    sequence: int
    stored_ns: int
    first_number: int
    outputs: tuple[HeldOutput, ...]

    def encode(self) -> bytes:
        """Return the entry as JSON."""
        return orjson.dumps(
            {
                "id": self.state_id,
                "state": b64encode(self.payload).decode(),
                "request_id": self.request_id,
                "origin": self.origin,
                "subject": self.subject,
                "sequence": self.sequence,
                "stored_ns": self.stored_ns,
                "first_number": self.first_number,
                "outputs": [
                    [b64encode(each.payload).decode(), each.channel, int(each.kind), each.last, dict(each.headers)]
                    for each in self.outputs
                ],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "StateEntry":
        """Read what a bucket holds. Raises DecodeError for what no runner has written."""
        try:
            if data.startswith(wire.GZIP_MAGIC):
                data = wire.inflate(data, wire.MAX_INFLATED_BYTES)
            found = orjson.loads(data)
            return cls(
                state_id=found["id"],
                payload=b64decode(found["state"]),
                request_id=found["request_id"],
                origin=found["origin"],
                subject=found["subject"],
                sequence=found["sequence"],
                stored_ns=found["stored_ns"],
                first_number=found["first_number"],
                outputs=tuple(
                    # What was kept before outputs had headers of their own has none.
                    HeldOutput(b64decode(payload), channel, MessageType(kind), last, *headers)
                    for payload, channel, kind, last, *headers in found["outputs"]
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DecodeError(f"what is kept as a state is none: {error!r}", reason="state") from error

    def comes_from(self, work: Work) -> bool:
        """Say whether this is the message that the entry was written for, delivered again or redriven."""
        if work.redrive:  # its outputs were refused after the state was kept
            return self.origin == work.origin and self.request_id == work.message.request_id
        return self.sequence == work.delivery.sequence and self.stored_ns == work.delivery.time_ns

    def is_beyond(self, delivery: Delivery) -> bool:
        """Say whether the entry holds this message's effect already, and that of later ones.

        A subject's messages are handled in their order, so that one which comes again after a later one has been
        settled before: the server has lost acks, or its consumer was made anew. The time tells a new stream apart,
        whose sequences begin again.
        """
        later = self.sequence > delivery.sequence and self.stored_ns >= delivery.time_ns
        return later and self.subject == delivery.subject


class StateClass:
    """How the states of a node are made, read and written."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Prepare for a class that can be called without arguments. Raises TypeError for one that has no JSON form."""
        self._make = make
        self._decode = decoder_for(make)
        encode_value(make())

    @classmethod
    def load(cls, name: str, handler: LoadedHandler) -> "StateClass":
        """Return the class `module:Class`, or for "" the handler's own `State`, else dict. Raises HandlerLoadError."""
        module, _, attribute = name.partition(":")
        where = name or f"{handler.path.name}:{DEFAULT_CLASS}"
        try:
            if not name:
                return cls(getattr(handler.module, DEFAULT_CLASS, dict))
            own = module == handler.path.stem
            return cls(getattr(handler.module if own else importlib.import_module(module), attribute))
        except Exception as error:  # the user's code runs here
            raise HandlerLoadError(
                f"{handler.path}: {where} cannot be the class of a state: {error}; write a dataclass or a pydantic"
                " model whose fields all have a default"
            ) from error

    def read(self, state_id: str, payload: bytes) -> Any:
        """Return a state of its own for every call. Raises DecodeError for one that does not fit the class any more."""
        if not payload:
            return self._make()
        try:
            return self._decode(payload)
        except DecodeError as error:
            raise DecodeError(f"the state of '{state_id}' cannot be read: {error}", reason="state") from error


class OpenState:
    """The state during one delivery, made when the handler first asks for it."""

    def __init__(self, kind: StateClass, state_id: str, payload: bytes) -> None:
        self._kind = kind
        self._state_id = state_id
        self._payload = payload
        self._value: Any = None

    @property
    def value(self) -> Any:
        if self._value is None:
            self._value = self._kind.read(self._state_id, self._payload)
        return self._value

    def encode(self) -> bytes:
        """Return the state as it is now. Raises EncodeError."""
        return self._payload if self._value is None else encode_value(self._value)


class States:
    """The states of one node, shared by its replicas. See `node/gate.py`."""

    def __init__(self, bucket: KeyValue, kind: StateClass, outputs: Outputs, limit_bytes: Callable[[], int]) -> None:
        self._bucket = bucket
        self._kind = kind
        self._outputs = outputs
        self._limit_bytes = limit_bytes

    async def handle(self, work: Work, call: Call, data: Any) -> None:
        stored = await self._read(work.message.state_id)
        entry = None if stored is None else StateEntry.decode(stored.value)
        if entry is not None and entry.is_beyond(work.delivery):
            log.warning("message %d was handled before later ones", work.delivery.sequence, extra={"action": "known"})
            return
        if entry is None or not entry.comes_from(work):
            entry = await self._call(work, partial(call, data), b"" if entry is None else entry.payload)
            if work.overdue:  # the handler has swallowed its cancellation
                return
            await self._keep(entry, stored)
        await self._publish(work, entry)

    async def skip(self, work: Work) -> None:
        """An ERROR changes no state."""

    async def _call(self, work: Work, call: Callable[[], Awaitable[None]], payload: bytes) -> StateEntry:
        message, delivery = work.message, work.delivery
        work.state = state = OpenState(self._kind, message.state_id, payload)
        work.held = held = list[HeldOutput]()
        await call()
        return StateEntry(
            state_id=message.state_id,
            payload=state.encode(),
            request_id=message.request_id,
            origin=work.origin,
            subject=delivery.subject,
            sequence=delivery.sequence,
            stored_ns=delivery.time_ns,
            first_number=work.outputs,
            outputs=tuple(held),
        )

    async def _publish(self, work: Work, entry: StateEntry) -> None:
        work.held = None
        work.outputs = entry.first_number
        for each in entry.outputs:
            work.set_headers(each.headers)
            await self._outputs.emit(work, each.payload, each.channel, kind=each.kind, last=each.last)

    async def _read(self, state_id: str) -> Entry | None:
        try:
            return await self._bucket.get(names.state_key(state_id))
        except NotFoundError:
            return None

    async def _keep(self, entry: StateEntry, before: Entry | None) -> None:
        data = entry.encode()
        try:
            data = wire.fit(data, self._limit_bytes())
        except MessageTooLargeError as error:
            raise MessageTooLargeError(
                f"the state of '{entry.state_id}' and the outputs of its message have {len(data):,} bytes together, and"
                f" the server takes {self._limit_bytes():,} compressed; keep less in the state, or send less at once"
            ) from error
        key = names.state_key(entry.state_id)
        if before is None:
            await self._bucket.create(key, data)
        else:
            await self._bucket.update(key, data, before.revision)
