"""Feeds one sink with every output of the workflow, whoever asked for it, through a durable consumer.

An output is acknowledged once it is written, so none is lost while the driver is away; it may be written twice.
"""

import logging

from runtime import wire
from runtime.bus.base import Bus, ConsumerConfig, Delivery, Reader
from runtime.clock import Clock
from runtime.drivers.flow import MAX_IN_FLIGHT, Item, output_of
from runtime.drivers.schedule import Backoff
from runtime.drivers.sink_letters import SinkLetters
from runtime.drivers.sink_loop import SinkLoop
from runtime.drivers.stored_answers import Answer, answer_of, with_payload
from runtime.errors import BusClosedError, BusError, BusUnavailableError, DecodeError, RevisionError
from runtime.message import Message

log = logging.getLogger(__name__)


class SinkFeed:
    """Reads and hands over one output at a time, in the order of the stream."""

    def __init__(self, bus: Bus, clock: Clock, consumer: ConsumerConfig, sink: SinkLoop, letters: SinkLetters) -> None:
        self._bus = bus
        self._stream = consumer.stream
        self._clock = clock
        self._sink = sink
        self._letters = letters
        self._reader: Reader = bus.reader(consumer, create=True)
        self._reader.prefetch = MAX_IN_FLIGHT

    async def run(self) -> None:
        """Feed until it is cancelled; then what is not written comes again. Raises BusClosedError, NotFoundError."""
        try:
            await self._reader.start()
            while True:
                await self._hand_over(await self._reader.take())
        finally:
            await self._reader.close()

    async def _hand_over(self, delivery: Delivery) -> None:
        try:
            message = await self._with_payload(wire.decode(delivery.data, takes_claims=True))
            answer = answer_of(message)
        except DecodeError as error:
            await self._give_up(delivery, error)
            return
        if answer is not None and (self._sink.takes_errors or not answer.error):
            item = _item(message, answer, delivery)
            await self._sink.put(output_of(answer.value, item), item)
        self._reader.ack(delivery)

    async def _with_payload(self, message: Message) -> Message:
        """Return a message with its payload, however long NATS is away. Raises DecodeError, BusClosedError."""
        backoff = Backoff()
        while True:
            try:
                return await with_payload(self._bus, self._stream, message)
            except (BusUnavailableError, RevisionError) as error:
                log.debug("an output cannot be fetched yet: %s", error)
            await self._clock.sleep(backoff.next_s())

    async def _give_up(self, delivery: Delivery, failure: DecodeError) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._letters.store_unreadable(self._sink.ref, delivery, failure)
            except BusClosedError:
                raise
            except BusError as error:
                log.warning("a dead letter is not stored yet: %s", error, extra={"action": "dead"})
                await self._clock.sleep(backoff.next_s())
            else:
                self._reader.term(delivery)
                return


def _item(message: Message, answer: Answer, delivery: Delivery) -> Item:
    # The sequence: outputs of one request have nothing else that tells them apart and stays the same.
    return Item(
        None,
        state_id=message.state_id,
        metadata=message.headers,
        request_id=message.request_id,
        number=delivery.sequence,
        error=answer.error,
    )
