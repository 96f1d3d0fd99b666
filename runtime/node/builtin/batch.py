"""Kind `batch`: runs a packaged model once for each message, and sends what became of it.

    message ─▶ {"id", "runs": [{"runId", "modelSlug", "status", "reason", "resultsLocation", …}]}

The work itself is `runtime/batch/`; here it is made a node's handler.
"""

import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from runtime.batch.artifact_stores import open_store
from runtime.batch.backend import Backend, worker_name
from runtime.batch.callbacks import HttpCallbacks
from runtime.batch.housekeeping import Housekeeping
from runtime.batch.parts import Tools
from runtime.batch.presence import Workers
from runtime.batch.records import RunRecords
from runtime.batch.schemas import Schema, load_schemas
from runtime.batch.storing import RunStoring
from runtime.batch.worker import Origin, Worker
from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.node.builtin.loaded import loaded
from runtime.node.context import Context
from runtime.node.handler import LoadedHandler
from runtime.settings import BatchSettings, NodeSettings, read_batch
from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.node import RetryPolicy

# Where the folders of runs are, below the workflow's folder, when `KRT_BATCH_DIR` does not say.
WORK = ".krt/batch"


def prepare(settings: NodeSettings, spec: BatchSpec, retry: RetryPolicy) -> "MakeBatch":
    """Read the schemas, and return what makes the node's handler. Raises ConfigError."""
    batch = read_batch(token_variable=spec.callback.token_env)
    paths = {"input": spec.schemas.input, "output": spec.schemas.output}
    return MakeBatch(settings, batch, spec, retry, load_schemas(settings.base_path, paths))


class MakeBatch:
    """Makes the handler once there is a connection."""

    def __init__(
        self,
        settings: NodeSettings,
        batch: BatchSettings,
        spec: BatchSpec,
        retry: RetryPolicy,
        schemas: dict[str, Schema | None],
    ) -> None:
        self._settings = settings
        self._batch = batch
        self._spec = spec
        self._retry = retry
        self._schemas = schemas

    def __call__(self, bus: Bus, clock: Clock) -> LoadedHandler:
        node = BatchNode(
            self._settings.node, self._settings.stream, self._tools(bus, clock), bus, self._schemas["input"]
        )
        return loaded(
            node.handle,
            init=node.init,
            beside=node.keep_house,
            teardown=node.teardown,
            decode=bytes,  # as it came: the model gets the very text of its configuration
        )

    def _tools(self, bus: Bus, clock: Clock) -> Tools:
        settings, spec = self._settings, self._spec
        records = RunRecords(bus, settings.stream, clock)
        work = self._batch.work or settings.base_path / WORK
        return Tools(
            spec=spec,
            retry=self._retry,
            records=records,
            backend=_backend(spec, self._batch, work),
            storing=RunStoring(
                spec,
                self._schemas["output"],
                partial(open_store, spec.artifacts.store, bus=bus, stream=settings.stream),
            ),
            callbacks=HttpCallbacks(spec.callback, self._batch.token, records, clock),
            work=work / settings.stream / settings.node,
            folder=settings.base_path,
            owner=worker_name(),
            host=socket.gethostname(),
            clock=clock,
        )


class BatchNode:
    """The worker of one node."""

    def __init__(self, node: str, stream: str, tools: Tools, bus: Bus, schema: Schema | None) -> None:
        self._tools = tools
        self._workers = Workers(bus, stream, node, tools.owner, tools.clock)
        self._worker = Worker(node, tools, self._workers, schema)
        self._housekeeping = Housekeeping(tools, self._worker)
        self._stack = AsyncExitStack()

    async def init(self, ctx: Context) -> None:
        """Be seen, before the first run, and end what dead workers of this host have left. Raises BusError."""
        await self._stack.enter_async_context(self._workers)
        await self._housekeeping.start()

    async def keep_house(self, ctx: Context) -> None:
        await self._housekeeping.run()

    async def teardown(self, ctx: Context) -> None:
        await self._worker.close()
        await self._stack.aclose()
        await self._tools.storing.close()
        await self._tools.callbacks.close()

    async def handle(self, ctx: Context, data: bytes) -> dict[str, Any]:
        is_of_caller = ctx.from_node in ("", names.ENTRYPOINT)
        origin = Origin(ctx.request_id, ctx.redrive, sequence=0 if is_of_caller else ctx.sequence)
        return await self._worker.handle(data, origin)


def _backend(spec: BatchSpec, settings: BatchSettings, work: Path) -> Backend:
    """Return what runs the models; neither is imported where the other one is meant."""
    if spec.backend == "command":
        from runtime.batch.command import CommandBackend

        return CommandBackend()
    from runtime.batch.container import ContainerBackend, HostFolder
    from runtime.batch.images import RegistryLogin

    login = RegistryLogin(settings.registry_user, settings.registry_password) if settings.registry_user else None
    return ContainerBackend(
        engine=spec.engine,
        user=spec.user,
        read_only=spec.read_only,
        login=login,
        host_folder=HostFolder(work, settings.host_work) if settings.host_work else None,
    )
