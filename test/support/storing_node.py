"""A stand-in for a workflow that keeps what it says: its one node stores each output in the stream, then answers."""

import asyncio
from collections import Counter

from runtime import wire
from runtime.bus.base import Bus, Confirmation, ReaderClosed
from runtime.spec import names
from test.support.answering_node import NODE, consumer_config
from test.support.drivers import STREAM


class StoringNode:
    """Use it with `async with`; `handled` counts the deliveries of each request."""

    def __init__(self, bus: Bus) -> None:
        self.handled: Counter[str] = Counter()
        self._bus = bus
        self._reader = bus.reader(consumer_config(STREAM), create=True)
        self._publisher = bus.publisher(STREAM)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "StoringNode":
        await self._reader.start()
        self._task = asyncio.create_task(self._work(), name="storing node")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.close()
        if self._task is not None:
            await self._task
        await self._publisher.close()

    async def _work(self) -> None:
        while True:
            try:
                delivery = await self._reader.take()
            except ReaderClosed:
                return
            message = wire.decode(delivery.data)
            self.handled[message.request_id] += 1
            output = message._replace(from_node=NODE)
            stored = Confirmation()
            await self._publisher.publish(
                names.node_subject(STREAM, NODE),
                wire.encode(output),
                message_id=f"{NODE}.{delivery.sequence}.0",
                confirm=stored,
            )
            await stored
            self._bus.send(message.reply_to, wire.encode(output._replace(outcome="ok")))
            self._reader.ack(delivery)
