"""Dead letters of a driver: outputs that a sink did not take, kept in the workflow's own stream for dead letters."""

import logging
import traceback
from collections.abc import Sequence

from runtime import wire
from runtime.bus.base import Bus, Delivery, Publisher, StreamConfig
from runtime.bus.dead_letters import LetterClaims, store_dead_letter
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import Clock
from runtime.deadletter import Attempt, DeadLetter
from runtime.drivers.flow import Item
from runtime.errors import DecodeError, NotFoundError
from runtime.message import Message, MessageType
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.claims import claims_store, letter_claims_store

log = logging.getLogger(__name__)

# Reason of a dead letter that a sink has refused; one that cannot be read has that of its DecodeError.
SINK_REASON = "sink"
# Seconds that dead letters are kept where no node has a stream for them yet: 30 days.
KEEP_S = 30 * 86400.0


class SinkLetters:
    """Stores dead letters on `<stream>_dlq.<driver>`. To be used with `async with`."""

    def __init__(self, bus: Bus, clock: Clock, stream: str, driver: str) -> None:
        self._bus = bus
        self._clock = clock
        self._stream = stream
        self._driver = driver
        self._publisher: Publisher | None = None
        self._claims = LetterClaims(bus, claims_store(stream), letter_claims_store(stream), clock)

    async def __aenter__(self) -> "SinkLetters":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._publisher is not None:
            await self._publisher.close()

    async def store(
        self, sink: str, value: object, item: Item, failure: Exception, attempts: Sequence[Attempt]
    ) -> None:
        """Store one output that `sink` has refused; returns once it is stored. Raises BusError, EncodeError."""
        message = Message(
            request_id=item.request_id,
            payload=b"" if item.error else encode_value(value),
            error=item.error,
            from_node=names.ENTRYPOINT,
            type=MessageType.ERROR if item.error else MessageType.OK,
            state_id=item.state_id,
            headers=item.metadata,
        )
        letter = self._letter(
            reason=SINK_REASON,
            error=f'sink "{sink}": {type(failure).__name__}: {failure}',
            traceback="".join(traceback.format_exception(failure)),
            request_id=item.request_id,
            stored_ns=self._clock.time_ns(),
            attempts=tuple(attempts),
        )
        await self._publish(wire.encode(message), letter, f"{self._driver}.{sink}.{item.request_id}.{item.number}")

    async def store_unreadable(self, sink: str, delivery: Delivery, failure: DecodeError) -> None:
        """Store a message of the workflow's output that cannot be read. Raises BusError."""
        letter = self._letter(
            reason=failure.reason,
            error=f'sink "{sink}": {failure}',
            request_id=failure.request_id,
            subject=delivery.subject,
            sequence=delivery.sequence,
            stored_ns=delivery.time_ns,
        )
        await self._publish(delivery.data, letter, f"{self._driver}.{sink}.{delivery.sequence}")

    def _letter(
        self,
        *,
        reason: str,
        error: str,
        request_id: str,
        stored_ns: int,
        traceback: str = "",
        subject: str = "",
        sequence: int = 0,
        attempts: tuple[Attempt, ...] = (),
    ) -> DeadLetter:
        return DeadLetter(
            node=self._driver,
            reason=reason,
            error=error,
            traceback=traceback,
            request_id=request_id,
            stream=self._stream,
            subject=subject,
            sequence=sequence,
            stored_ns=stored_ns,
            attempts=attempts,
            handler_version="",
            headers={},
        )

    async def _publish(self, data: bytes, letter: DeadLetter, message_id: str) -> None:
        subject = names.dead_letter_subject(self._stream, self._driver)
        publisher = self._publisher or await self._open()
        await store_dead_letter(publisher, subject, data, letter, message_id=message_id, claims=self._claims)
        fields = {"request_id": letter.request_id, "action": "dead"}
        log.error("an output is given up: %s; dead letter in %s", letter.error, subject, extra=fields)

    async def _open(self) -> Publisher:
        name = names.dead_letter_stream(self._stream)
        try:
            await self._bus.stream_state(name)
        except NotFoundError:  # no node keeps any
            await self._bus.ensure_stream(StreamConfig(name=name, subjects=(f"{name}.>",), max_age_s=KEEP_S))
            store = ObjectStoreConfig(name=letter_claims_store(self._stream), max_age_s=KEEP_S)
            await self._bus.ensure_object_store(store)
        self._publisher = self._bus.publisher(name)
        return self._publisher
