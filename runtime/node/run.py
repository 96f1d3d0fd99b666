"""The life of a node's process: load, connect, start, be ready and present, wait for the end of anything, stop.

A failure anywhere ends the process with a non-zero code, never as a live process that does nothing.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from runtime import log as logs
from runtime.bus.base import Bus
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.clock import SystemClock
from runtime.collector import collect_rarely
from runtime.errors import AccessError, ConfigError, DriftError, WorkerEndedError
from runtime.node.dead_letters import shown_of
from runtime.node.fusion import FusedProcess, prepare_chain
from runtime.node.gpu_watch import GpuWatch
from runtime.node.kinds import open_handler
from runtime.node.process import NodeProcess, open_stores, read_spec
from runtime.node.settle import describe
from runtime.settings import NodeSettings
from runtime.spec import names

log = logging.getLogger(__name__)

# Exit codes of the process: everything in order; failed; wrong configuration or handler, which a restart cannot help.
EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2


async def run_node(settings: NodeSettings, stop: asyncio.Event) -> int:
    """Run one node, and those that are fused with it, until `stop` is set; returns the exit code."""
    from runtime.bus.nats import NatsBus

    async with contextlib.AsyncExitStack() as stack:
        try:
            make_process = await stack.enter_async_context(_prepared(settings))
        except ConfigError as error:
            log.error("%s", error, extra={"action": "refused"})
            return EXIT_CONFIG
        except WorkerEndedError as error:
            log.error("%s", error, extra={"action": "failed"})
            return EXIT_FAILED
        bus = await NatsBus.of(settings.nats, f"{settings.workflow}/{settings.node}/{settings.replica}")
        stack.push_async_callback(bus.close)
        return await _run_until(make_process(bus), bus, settings, stop)


@contextlib.asynccontextmanager
async def _prepared(settings: NodeSettings) -> AsyncIterator[Callable[[Bus], NodeProcess | FusedProcess]]:
    """Load the user's code, open the stores, and return what makes the process. Raises as `kinds.open_handler`."""
    spec = read_spec(settings)
    if spec.behind:
        yield prepare_chain(settings)
        return
    async with open_handler(settings, spec) as make_handler:
        stores = open_stores(settings)
        yield lambda bus: NodeProcess(settings, bus, stores, make_handler(bus, SystemClock()))


def _calm_garbage_collector() -> None:
    """Leave what the start has made out of every later collection, and collect rarely."""
    gc.collect()
    gc.freeze()
    collect_rarely()


def _presence(node: NodeProcess, bus: Bus, gpus: GpuWatch) -> contextlib.AbstractAsyncContextManager[Heartbeat | None]:
    """Return what tells others that this replica takes messages, and what it has counted.

    A bare runner tells nobody: it makes no bucket on a NATS that is not ours.
    """
    settings = node.settings
    if not settings.node_spec:
        return contextlib.nullcontext()
    record = ServiceRecord.of_this_process(
        names.NODE, settings.node, workflow=settings.workflow, replica=settings.replica
    )
    metadata = {names.SCHEMAS: node.told_schemas(), names.FUSED_WITH: node.spec.fused_with}

    def told() -> ServiceRecord:
        return replace(record, counters=node.metrics.totals(), metadata={**metadata, **gpus.told()})

    key = names.presence_key(names.NODE, settings.stream, settings.node, record.instance)
    return Heartbeat(bus, names.PRESENCE_BUCKET, key, told, SystemClock())


async def _run_until(process: NodeProcess | FusedProcess, bus: Bus, settings: NodeSettings, stop: asyncio.Event) -> int:
    """Start, be ready, wait for the end of anything, stop. A stop while starting is one, too: `init` may take long."""
    closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    starting = asyncio.create_task(process.start(), name="start")
    code = EXIT_OK
    try:
        await asyncio.wait({starting, closed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _calm_garbage_collector()
            logs.tell_ready(settings.ready_fd)
            log.info("ready", extra={"action": "ready"})
            ends: list[asyncio.Future[Any]] = [closed, stopped, process.failed]
            async with contextlib.AsyncExitStack() as present:
                gpus = await present.enter_async_context(GpuWatch(settings.gpu_share))
                for node in process.nodes:
                    await present.enter_async_context(_presence(node, bus, gpus))
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if process.failed.done():
                process.failed.result()
        if closed.done():
            code = EXIT_FAILED
    except (ConfigError, DriftError, AccessError) as error:
        log.error("%s", error, extra={"action": "refused"})
        code = EXIT_CONFIG
    except Exception as error:  # the edge of the process: say why, and end
        log.error("the node has failed: %s", describe(error), exc_info=shown_of(error), extra={"action": "failed"})
        code = EXIT_FAILED
    finally:
        log.info("stopping", extra={"action": "stopping"})
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await process.stop()
        closed.cancel()
        stopped.cancel()
    return code
