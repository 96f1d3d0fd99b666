"""The runtime's own processes, manager and writer, from their settings to their end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, Self

import pydantic

from runtime import log as logs
from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.bus.nats import NatsBus
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.errors import BusClosedError, SettingsError
from runtime.settings import ManagerSettings, NatsSettings, WriterSettings
from runtime.spec import names
from runtime.spec.manager import ManagerSpec
from runtime.stores.open import open_documents
from runtime.stores.writer import Writer

log = logging.getLogger(__name__)


async def run_manager(settings: ManagerSettings, stop: asyncio.Event) -> None:
    """Apply the workflow's topology, then look after its stream until `stop` is set.

    Raises SettingsError, DriftError, BusUnavailableError, BusClosedError.
    """
    spec = read_manager_spec(settings.spec)
    async with _connected(settings.nats, f"manager of {spec.stream}") as bus:
        manager = Manager(bus, spec, SystemClock())
        await manager.apply()
        await manager.tell_placement()
        _tell_ready(settings.ready_fd)
        async with _present(bus, names.MANAGER, spec.stream, dict):
            await _work_until(stop, bus, manager.run())


def read_manager_spec(text: str) -> ManagerSpec:
    """Return the spec of KRT_MANAGER_SPEC. Raises SettingsError with every fault."""
    try:
        return ManagerSpec.model_validate_json(text)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'its start'}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError([f"the 'KRT_MANAGER_SPEC' env var is wrong at {fault}" for fault in faults]) from error


async def run_writer(settings: WriterSettings, stop: asyncio.Event) -> None:
    """Store documents until `stop` is set; what has arrived by then is stored and answered.

    Raises ConfigError, BusUnavailableError, BusClosedError.
    """
    store = open_documents(settings.mongo_uri, settings.mongo_database)
    try:
        async with _connected(settings.nats, f"writer of {settings.subject}") as bus:
            writer = Writer(store, max_inflated_bytes=settings.max_inflated_bytes)
            desk = await WriterDesk.open(writer, bus, settings.subject)
            _tell_ready(settings.ready_fd)
            try:
                async with _present(bus, names.WRITER, settings.stream, lambda: asdict(writer.counts)):
                    await _work_until(stop, bus, desk.run())
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


@asynccontextmanager
async def _connected(settings: NatsSettings, name: str) -> AsyncIterator[Bus]:
    bus = await NatsBus.of(settings, name)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def _present(bus: Bus, kind: str, stream: str, counters: Callable[[], dict[str, int]]) -> AsyncIterator[None]:
    """Be present inside the block; a process that serves no stream is not."""
    if not stream:
        yield
        return
    record = ServiceRecord.of_this_process(kind, kind)
    key = names.presence_key(kind, stream, record.instance)
    async with Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: replace(record, counters=counters()), SystemClock()):
        yield


async def _work_until(stop: asyncio.Event, bus: Bus, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until `stop` is set. Raises what the work raises; BusClosedError when the bus is gone."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
    working = asyncio.create_task(work, name="work")
    try:
        await asyncio.wait([stopped, closed, working], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        if closed.done():
            raise BusClosedError("NATS has closed the connection for good")
    finally:
        for task in (stopped, closed, working):
            task.cancel()
        await asyncio.gather(stopped, closed, working, return_exceptions=True)


def _tell_ready(ready_fd: int | None) -> None:
    logs.tell_ready(ready_fd)
    log.info("ready", extra={"action": "ready"})
