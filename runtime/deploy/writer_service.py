"""The writer's process, from its settings to its end, and its desk, which takes what comes over NATS to the writer."""

import asyncio
from dataclasses import asdict
from typing import Self

from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.deploy.service import connected, present, tell_ready, work_until
from runtime.settings import WriterSettings
from runtime.spec import names
from runtime.stores.open import open_documents
from runtime.stores.writer import Writer


async def run_writer(settings: WriterSettings, stop: asyncio.Event) -> None:
    """Store documents until `stop` is set; what has arrived by then is stored and answered.

    Raises ConfigError, BusUnavailableError, BusClosedError.
    """
    store = open_documents(settings.mongo_uri, settings.mongo_database)
    try:
        async with connected(settings.nats, f"writer of {settings.subject}") as bus:
            writer = Writer(store, max_inflated_bytes=settings.max_inflated_bytes)
            desk = await WriterDesk.open(writer, bus, settings.subject)
            tell_ready(settings.ready_fd)
            try:
                async with present(bus, names.WRITER, settings.stream, lambda: asdict(writer.counts)):
                    await work_until(stop, bus, desk.run())
            finally:
                await desk.close(settings.grace_s)
    finally:
        await store.close()


class WriterDesk:
    """Takes requests from the bus to the writer, and its answers back."""

    def __init__(self, writer: Writer, bus: Bus) -> None:
        self._writer = writer
        self._bus = bus
        self._storing = asyncio.create_task(writer.run(), name="writer")
        self._answers: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    @classmethod
    async def open(cls, writer: Writer, bus: Bus, subject: str) -> Self:
        """Begin to take requests; several writers share them."""
        desk = cls(writer, bus)
        desk._subscription = await bus.subscribe(subject, desk._take, queue=names.WRITER_QUEUE)
        return desk

    async def run(self) -> None:
        """Wait for the end of the storing task, which ends only by a failure."""
        await asyncio.shield(self._storing)

    async def close(self, grace_s: float) -> None:
        """Take no more requests, and answer within `grace_s` what has arrived."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if self._answers:
            await asyncio.wait(self._answers, timeout=grace_s)
        await self._writer.close()
        await asyncio.gather(self._storing, *self._answers, return_exceptions=True)

    def _take(self, request: CoreMessage) -> None:
        answer = asyncio.create_task(self._answer(request), name="document")
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, request: CoreMessage) -> None:
        body = await self._writer.handle(request.data, request.headers.get(names.DOCUMENT_ID_HEADER, ""))
        if request.reply:
            self._bus.send(request.reply, body)
