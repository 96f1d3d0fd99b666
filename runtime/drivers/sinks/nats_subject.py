"""Sink `nats`: outputs on a subject, in core NATS or in a stream of somebody else."""

from typing import Any

from pydantic import Field

from runtime.bus.base import Confirmation, Publisher
from runtime.drivers.flow import Item, NotConnected, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes
from runtime.errors import BusUnavailableError, StreamFullError

# Headers that tell a receiver what an output belongs to.
REQUEST_HEADER, STATE_HEADER = "Krt-Request-Id", "Krt-State-Id"


class NatsParameters(SinkParameters):
    """Parameters of `nats`."""

    subject: str = Field(description="The subject.")
    stream: str = Field("", description="A stream that stores it; without one, an output may be lost.")
    with_item: bool = Field(False, description="Send {request_id, source, state_id, metadata, …, output}.")


class NatsSink(Sink):
    """Sends each output as JSON (bytes as they are), with `Krt-Request-Id` and `Krt-State-Id` as headers.

    With `stream` it is confirmed, and a repeat within the stream's dedup window is stored once. Without, it is core
    NATS: whoever does not listen misses it.
    """

    parameters = NatsParameters
    params: NatsParameters
    _publisher: Publisher | None = None

    async def open(self) -> None:
        if self.params.stream:
            self._publisher = self.site.bus.publisher(self.params.stream)

    async def write(self, outputs: Any, item: Item) -> None:
        value = record_of(outputs, item) if self.params.with_item else outputs
        data = value if isinstance(value, bytes) else json_bytes(value)
        headers = {REQUEST_HEADER: item.request_id}
        if item.state_id.isprintable() and item.state_id.isascii():  # others have no form in a header
            headers[STATE_HEADER] = item.state_id
        if self._publisher is None:
            self.site.bus.send(self.params.subject, data, headers=headers)
            return
        stored = Confirmation()
        message_id = f"{self.site.driver}.{self.site.ref}.{item.request_id}.{item.number}"
        await self._publisher.publish(self.params.subject, data, message_id=message_id, confirm=stored, headers=headers)
        try:
            await stored
        except (StreamFullError, BusUnavailableError) as error:
            raise NotConnected(str(error)) from error

    async def close(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()
