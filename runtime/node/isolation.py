"""Handlers in worker processes: as many of them as the node says, each with the handler's module, kept running.

The node never imports the module: a worker tells what it is. To the runner the handler is a coroutine function that
takes payloads as they come and returns payloads. What a thread cannot give: a call that is given up ends with its
worker, another one is started in its place, and a crash costs the messages of one call an attempt, and nothing else.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from runtime.node.batching_context import BatchContext
from runtime.node.context import Context, Services
from runtime.node.handler import CallKind, HandlerFunction, LoadedHandler
from runtime.node.isolation_frames import Head
from runtime.node.isolation_worker import HandlerWorker, works_of
from runtime.settings import NodeSettings
from runtime.spec.edges import HandlerTypes
from runtime.spec.node import NodeSpec

log = logging.getLogger(__name__)

# Seconds before a worker that has handled nothing is started again; doubled with each one, up to the maximum.
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 30.0
# Workers in a row that do not come up before their node ends; whoever has started the node may help.
MAX_STARTS = 5
# Which devices a process of CUDA sees.
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
# Variables of the node's own that a handler may know; all others of ours are how it reaches its servers.
TOLD_VARIABLES = (
    "KRT_WORKFLOW_NAME", "KRT_VERSION", "KRT_VERSION_ID", "KRT_NODE_NAME", "KRT_BASE_PATH", "KRT_GPU_SHARE",
)  # fmt: skip


@contextlib.asynccontextmanager
async def open_workers(settings: NodeSettings, spec: NodeSpec) -> AsyncIterator["WorkerPool"]:
    """Start the workers of a node and have them import its handler; they end with the context.

    Raises HandlerLoadError, WorkerEndedError, OSError.
    """
    pool = WorkerPool(settings, spec)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()


class WorkerPool:
    """The workers of one node."""

    def __init__(self, settings: NodeSettings, spec: NodeSpec) -> None:
        assert spec.workers is not None, "a node with worker processes"
        self._count = spec.workers
        self._node = settings.node
        self._path = settings.handler_file
        self._is_batched = spec.batching is not None
        self._told = {
            "workflow": settings.workflow,
            "version_id": settings.version_id,
            "version": settings.version,
            "node": settings.node,
            "base_path": str(settings.base_path.absolute()),
            "stream": settings.stream,
            "handler_path": settings.handler_path,
            "batched": self._is_batched,
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        self._description: Head = {}
        self._workers: dict[int, HandlerWorker] = {}
        self._idle: asyncio.Queue[HandlerWorker] = asyncio.Queue()

    async def start(self) -> None:
        """Start all workers."""
        await _together([self._start(number) for number in range(1, self._count + 1)])

    async def close(self) -> None:
        """End all workers."""
        await asyncio.gather(*(worker.close() for worker in self._workers.values()))

    def handler(self) -> LoadedHandler:
        """Return the handler as the runner calls it."""
        told = self._description
        handle = HandlerFunction(self._handle, CallKind.ASYNC, _as_it_is, batched=self._is_batched)
        return LoadedHandler(
            path=self._path,
            module=ModuleType("worker"),
            default=handle if told["has_default"] else None,
            by_node=dict.fromkeys(told["by_node"], handle),
            from_node_style=told["from_node_style"],
            init=HandlerFunction(self._initialise, CallKind.ASYNC, _as_it_is),
            teardown=HandlerFunction(self._tear_down, CallKind.ASYNC, _as_it_is),
            channels=None if told["channels"] is None else frozenset(told["channels"]),
            handle_errors=told["handle_errors"],
            beside=HandlerFunction(self._keep_all, CallKind.ASYNC, _as_it_is),
            types=HandlerTypes.model_validate(told["types"]),
        )

    # --- the life of the workers ---

    async def _start(self, number: int) -> HandlerWorker:
        worker, self._description = await HandlerWorker.start(
            number, self._told, worker_environment(os.environ, number, self._count)
        )
        self._workers[number] = worker
        return worker

    async def _initialise(self, context: Context) -> None:
        await _together([worker.initialise(context._services) for worker in self._workers.values()])

    async def _keep_all(self, context: Context) -> None:
        """Keep every worker running, until this is cancelled; one that cannot be started again ends the node."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers.values():
                name = f"{self._node} worker {worker.number}"
                group.create_task(self._keep(worker, context._services), name=name)

    async def _keep(self, worker: HandlerWorker, services: Services) -> None:
        in_vain = 0
        while True:
            self._idle.put_nowait(worker)
            how = await worker.wait()
            log.warning("worker %d has ended with %s", worker.number, how, extra={"action": "worker-ended"})
            in_vain = 0 if worker.has_answered or worker.was_killed else in_vain + 1
            worker = await self._replace(worker.number, services, in_vain)

    async def _replace(self, number: int, services: Services, in_vain: int) -> HandlerWorker:
        """Start a worker in the place of one that has ended; when it does not come up, again, after a pause.

        in_vain: workers before it, in a row, that have handled nothing. Raises what the last try has failed with.
        """
        for tried in range(in_vain, in_vain + MAX_STARTS):
            if tried > 0:
                await services.clock.sleep(min(FIRST_DELAY_S * 2.0 ** (tried - 1), MAX_DELAY_S))
            try:
                worker = await self._start(number)
                await worker.initialise(services)
                return worker
            except Exception as error:  # whatever the handler's module and its `init` raise
                failure = error
                log.warning("worker %d does not start again: %s", number, error, extra={"action": "worker-failed"})
                await self._workers[number].close(0)
        raise failure

    async def _tear_down(self, context: Context) -> None:
        """Run `teardown` in all workers but those that have ended, or were given up."""
        waiting = [worker for worker in self._workers.values() if worker.is_alive and not worker.is_busy]
        await asyncio.gather(*(worker.tear_down(context._services) for worker in waiting))

    # --- messages ---

    async def _handle(self, context: Context, data: Any) -> Any:
        """Have a worker handle a message, or a list of them. Cancelling kills the worker."""
        worker = await self._take(context)
        try:
            return await worker.handle(context, data)
        finally:
            if worker.is_busy:
                worker.kill()
            elif worker.is_alive:
                self._idle.put_nowait(worker)

    async def _take(self, context: Context) -> HandlerWorker:
        """Return a worker that has nothing to do. The time that this takes is not the handler's."""
        try:
            worker = self._idle.get_nowait()
        except asyncio.QueueEmpty:
            with _time_stopped(context):
                worker = await self._idle.get()
        # One that has ended meanwhile is replaced by whoever keeps it.
        return worker if worker.is_alive else await self._take(context)


def worker_environment(environ: Mapping[str, str], number: int, count: int) -> dict[str, str]:
    """Return the variables of a worker, the `number`th of `count`: the node's own but for what is the runtime's.

    The devices that the node sees are shared out, each worker getting one at least.
    """
    own = {name: value for name, value in environ.items() if not name.startswith("KRT_") or name in TOLD_VARIABLES}
    devices = [device for device in environ.get(VISIBLE_DEVICES, "").split(",") if device]
    if devices:
        own[VISIBLE_DEVICES] = ",".join(devices[number - 1 :: count] or [devices[(number - 1) % len(devices)]])
    return own


@contextlib.contextmanager
def _time_stopped(context: Context) -> Iterator[None]:
    """Let no message become overdue meanwhile; afterwards the time of each starts anew."""
    works = works_of(context)
    limit = context._time_limit if isinstance(context, BatchContext) else None
    for work in works:
        work.ends_s = None
    if limit is not None:
        limit.pause()
    yield
    now_s = context._services.clock.monotonic()
    for work in works:
        work.start(now_s, work.timeout_s)
    if limit is not None:
        limit.restart()


def _as_it_is(payload: bytes) -> bytes:
    """Leave a payload to the worker, which knows what its handler takes."""
    return payload


async def _together(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Await all at once. The first failure is raised as it is, once the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
