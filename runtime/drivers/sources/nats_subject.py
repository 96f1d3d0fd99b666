"""Source `nats`: messages of a subject, from core NATS or from a stream of somebody else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from pydantic import Field

from runtime.bus.base import ConsumerConfig, CoreMessage, Delivery, Reader, Subscription
from runtime.drivers import records
from runtime.drivers.flow import MAX_IN_FLIGHT, Item, NotConnected, Source, SourceParameters
from runtime.errors import BusClosedError, BusError

log = logging.getLogger(__name__)

# Messages of core NATS that wait here; what comes beyond is lost, as core NATS knows no waiting.
MAX_WAITING = 1000


class NatsParameters(SourceParameters):
    """Parameters of `nats`."""

    subject: str = Field(description="The subject; `*` and `>` are taken.")
    stream: str = Field("", description="A stream that stores it: each message is acknowledged after the last sink.")
    durable: str = Field(
        "", description="The consumer of the stream; by default made of the refs of driver and source."
    )
    queue: str = Field("", description="Without a stream: drivers of one queue share the messages.")
    format: records.Format = Field(records.Format.JSON, description="What a message is: json, text or bytes.")


class NatsSource(Source):
    """Sends what comes on a subject; its headers become metadata.

    With `stream` nothing is lost: a message that is not done when the driver ends comes again. Without, it is core
    NATS: what is sent while the driver is away is lost.
    """

    parameters = NatsParameters
    params: NatsParameters
    _reader: Reader | None = None
    _subscription: Subscription | None = None
    _messages: "asyncio.Queue[CoreMessage]"
    lost = 0

    async def open(self) -> None:
        try:
            if self.params.stream:
                await self._open_reader()
            else:
                self._messages = asyncio.Queue()
                self._subscription = await self.site.bus.subscribe(
                    self.params.subject, self._arrive, queue=self.params.queue
                )
        except BusClosedError:
            raise
        except BusError as error:
            raise NotConnected(str(error)) from error

    async def read(self) -> AsyncIterator[Any]:
        reader = self._reader
        while reader is not None:
            delivery = await reader.take()
            yield self._item(delivery.data, delivery.headers, partial(_acknowledge, reader, delivery))
        while True:
            message = await self._messages.get()
            yield self._item(message.data, message.headers, None)

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def _open_reader(self) -> None:
        durable = self.params.durable or f"{self.site.driver}_{self.site.ref}_source"
        config = ConsumerConfig(stream=self.params.stream, durable=durable, filter_subjects=(self.params.subject,))
        reader = self.site.bus.reader(config, create=True)
        reader.prefetch = min(self.params.max_in_flight, MAX_IN_FLIGHT)
        await reader.start()
        self._reader = reader

    def _arrive(self, message: CoreMessage) -> None:
        if self._messages.qsize() >= MAX_WAITING:
            if not self.lost:
                text = 'source "%s" is too slow for %s; messages are lost'
                log.warning(text, self.site.ref, self.params.subject, extra={"action": "overflow"})
            self.lost += 1
            return
        self._messages.put_nowait(message)

    def _item(self, data: bytes, headers: Any, done: Any) -> Item:
        metadata = {name: value for name, value in (headers or {}).items() if not name.startswith("Nats-")}
        try:
            return Item(records.decode(data, self.params.format), metadata=metadata, done=done)
        except ValueError as error:
            return Item(None, metadata=metadata, done=done, fault=f"a message of {self.params.subject} {error}")


def _acknowledge(reader: Reader, delivery: Delivery, outcome: str) -> None:
    # Whatever the outcome: the stream has the request, and a failure is its node's dead letter.
    reader.ack(delivery)
