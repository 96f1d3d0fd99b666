"""What manager and writer, the runtime's own processes, have in common.

Each is in a module of its own, for neither imports what only the other needs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from runtime import log as logs
from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.clock import SystemClock
from runtime.errors import BusClosedError
from runtime.settings import NatsSettings
from runtime.spec import names

log = logging.getLogger(__name__)


@asynccontextmanager
async def connected(settings: NatsSettings, name: str) -> AsyncIterator[Bus]:
    """Be connected inside the block. Raises as `NatsBus.of`."""
    bus = await NatsBus.of(settings, name)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def present(bus: Bus, kind: str, stream: str, counters: Callable[[], dict[str, int]]) -> AsyncIterator[None]:
    """Be present inside the block; a process that serves no stream is not."""
    if not stream:
        yield
        return
    record = ServiceRecord.of_this_process(kind, kind)
    key = names.presence_key(kind, stream, record.instance)
    async with Heartbeat(bus, names.PRESENCE_BUCKET, key, lambda: replace(record, counters=counters()), SystemClock()):
        yield


async def work_until(stop: asyncio.Event, bus: Bus, work: Coroutine[Any, Any, None]) -> None:
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


def tell_ready(ready_fd: int | None) -> None:
    """Tell who started this process, and the log, that it does its work."""
    logs.tell_ready(ready_fd)
    log.info("ready", extra={"action": "ready"})
