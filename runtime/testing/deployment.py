"""The processes of a workflow inside this one: runners on an in-memory bus, with in-memory stores.

Runners of algorithms that the file names run here as well, in threads whatever it says.

Handlers, retries, dead letters, ids and routing are those of a deployment, planned from the same file. Left out:
processes, the network and the disk; one replica runs of each node. Tests give it a clock of their own; `init("debug")`
runs it in real time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from runtime.algorithms import discover
from runtime.algorithms.discover import adapter_file
from runtime.algorithms.executors import ThreadExecutor
from runtime.algorithms.process import runner_terms
from runtime.algorithms.runner import Runner
from runtime.bus.base import ConsumerConfig, Reader
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.memory_reader import MemoryReader
from runtime.clock import Clock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_spec import manager_spec
from runtime.deploy.plan import Target, handler_versions, plan
from runtime.deploy.process import Process
from runtime.deploy.wiring import stream_of
from runtime.deploy.writer_service import WriterDesk
from runtime.errors import ConfigError
from runtime.node.fusion import FusedProcess, Member, chain_settings
from runtime.node.handler import LoadedHandler
from runtime.node.kinds import MakeHandler, prepare_handler
from runtime.node.modules import HandlerModules
from runtime.node.process import NodeProcess, Stores, read_spec
from runtime.settings import NodeSettings, read_algorithms, read_node
from runtime.spec import names
from runtime.spec.edges import JsonSchema
from runtime.spec.model import Node, Workflow
from runtime.stores.base import Point
from runtime.stores.writer import Writer
from runtime.testing.stores import Collections, MemoryDocuments, MemoryPoints

# Handlers are given this many seconds of real time to finish at the end.
GRACE_S = 1.0


class Connection(MemoryBus):
    """A connection that shows its readers."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.readers: list[Reader] = []

    def reader(self, config: ConsumerConfig, *, create: bool) -> MemoryReader:
        reader = super().reader(config, create=create)
        self.readers.append(reader)
        return reader


class MemoryDeployment:
    """One workflow. What was sent and stored can be looked at while it runs, and afterwards."""

    def __init__(
        self,
        definition: Workflow,
        runtime_id: str,
        clock: Clock,
        *,
        environment: Mapping[str, str] | None = None,
        wrap: Callable[[str, LoadedHandler], LoadedHandler] = lambda _, handler: handler,
        fused: bool = False,
    ) -> None:
        """Prepare. environment: where the file's `secrets` are found, by default the process's own.

        wrap: called with each node and its handler, for what is to run in the handler's place. fused: chains are as the
        file says; by default every output is in the stream, where it can be looked at.
        """
        self.definition = definition if fused else definition.unfused()
        self.runtime_id = runtime_id
        self.stream = stream_of(definition, runtime_id)
        self.broker = MemoryBroker(clock)
        self.connections: list[Connection] = []
        self.collections: Collections = {}
        self.points: list[Point] = []
        self._clock = clock
        self._environment = os.environ if environment is None else environment
        self._wrap = wrap
        self._nodes: list[NodeProcess] = []
        self._stack = AsyncExitStack()

    @property
    def gathering(self) -> int:
        """Messages that nodes have in hand until their batch goes."""
        return sum(node.gathering for node in self._nodes)

    async def start(self) -> Manager:
        """Start in the order of a deployment. Returns the manager, which has nothing to close.

        Raises ConfigError, HandlerLoadError, AdapterError and whatever an `init` raises; then nothing is left running.
        """
        async with AsyncExitStack() as stack:
            self._stack = stack
            planned = self._planned()
            self._set_variables(planned)
            nodes = [process for process in planned if process.arguments == ("node",)]
            runners = [process for process in planned if process.arguments == ("algorithms",)]
            modules = HandlerModules(self.definition.folder.absolute())
            stack.callback(modules.close)
            makers = [
                _prepare(modules, chain, process) for chain, process in zip(self.definition.chains, nodes, strict=True)
            ]
            bus = self.connect()
            manager = Manager(bus, manager_spec(self.definition, self.runtime_id), self._clock)
            await manager.apply()
            await self._start_writer(bus)
            for process in runners:
                await self._start_runner(modules, process)
            for chain in makers:
                await self._start_nodes(chain)
            self._stack = stack.pop_all()
        return manager

    async def stop(self) -> None:
        """End nodes and writer in order, and close every connection."""
        await self._stack.aclose()

    def connect(self) -> Connection:
        """Return a connection, to be closed by `stop` at the latest."""
        connection = Connection(self.broker)
        self.connections.append(connection)
        self._stack.push_async_callback(connection.close)
        return connection

    def told_schemas(self) -> dict[str, JsonSchema]:
        """Return the schemas `inputs` and `outputs` of the workflow, as far as its handlers declare them."""
        return {what: schema for node in self._nodes for what, schema in node.told_schemas().items()}

    def _planned(self) -> list[Process]:
        """Return the processes as they are planned, in the order of the file. Raises ConfigError."""
        target = Target(
            nats_servers=("nats://memory:4222",),
            mongo_uri="sqlite:///memory",
            influx_uri="sqlite:///memory",
            base_path=str(self.definition.folder.absolute()),
            runtime_id=self.runtime_id,
            grace_s=GRACE_S,
            handler_versions=handler_versions(self.definition),
            environment=self._environment,
        )
        return plan(self.definition, target)

    def _set_variables(self, processes: Sequence[Process]) -> None:
        """Set the variables of nodes and drivers. All share one process here, so two must not differ in one."""
        own: dict[str, str] = {}
        for process in processes:
            for name, value in process.environment.items():
                if not name.startswith("KRT_") and own.setdefault(name, value) != value:
                    raise ConfigError(f"{name} is set to two values, but here all nodes and drivers run in one process")
        self._stack.callback(_restore_variables, {name: os.environ.get(name) for name in own})
        os.environ.update(own)

    async def _start_writer(self, bus: MemoryBus) -> None:
        desk = await WriterDesk.open(Writer(MemoryDocuments(self.collections)), bus, names.WRITER_SUBJECT)
        self._stack.push_async_callback(desk.close, GRACE_S)

    async def _start_runner(self, modules: HandlerModules, process: Process) -> None:
        settings = read_algorithms(process.environment)
        file = str(adapter_file(settings.adapter))
        offer = modules.alone([file], lambda: discover(file))
        threads = sum(each.concurrency or settings.concurrency for each in offer.descriptions)
        executor = ThreadExecutor(offer, threads)
        self._stack.push_async_callback(executor.close)
        runner = Runner(self.connect(), runner_terms(settings), offer.descriptions, executor, self._clock)
        self._stack.push_async_callback(runner.stop)
        await runner.start()

    async def _start_nodes(self, chain: "Sequence[_Prepared]") -> None:
        """Start a node, or those of a fused chain."""
        bus = self.connect()
        members = [
            Member(
                prepared.settings,
                Stores(MemoryDocuments(self.collections), MemoryPoints(self.points)),
                self._wrap(prepared.settings.node, prepared.make_handler(bus, self._clock)),
            )
            for prepared in chain
        ]
        first = members[0]
        process: FusedProcess | NodeProcess = (
            FusedProcess(members, bus, self._clock)
            if len(members) > 1
            else NodeProcess(first.settings, bus, first.stores, first.handler, self._clock)
        )
        self._nodes += process.nodes
        self._stack.push_async_callback(process.stop)
        await process.start()


class _Prepared(NamedTuple):
    """A node whose code is loaded."""

    settings: NodeSettings
    make_handler: MakeHandler


def _prepare(modules: HandlerModules, chain: Sequence[Node], process: Process) -> list[_Prepared]:
    """Load the code of the nodes of one process."""
    prepared = []
    for node, settings in zip(chain, chain_settings(read_node(process.environment)), strict=True):
        load = partial(prepare_handler, settings, read_spec(settings))
        prepared.append(_Prepared(settings, modules.alone(node.code_files, load)))
    return prepared


def _restore_variables(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
