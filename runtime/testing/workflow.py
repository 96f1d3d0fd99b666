"""A whole workflow in memory: the runners of a deployment on an in-memory bus, with in-memory stores and a fake clock.

Handlers, retries, dead letters, ids and routing are those of a deployment, planned from the same file. Left out:
processes, the network and the disk; one replica runs of each node, and the manager never purges.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from runtime import client, payload, wire
from runtime.bus.base import ConsumerConfig, Reader, StoredMessage
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.memory_reader import MemoryReader
from runtime.clock import FakeClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.deploy.manager import Manager
from runtime.deploy.plan import Target, handler_versions, manager_spec, object_store_of, plan, stream_of
from runtime.deploy.process import Process
from runtime.deploy.service import WriterDesk
from runtime.errors import ConfigError, NotFoundError
from runtime.message import MessageType
from runtime.node import watchdog
from runtime.node.handler import HandlerFunction, LoadedHandler
from runtime.node.process import NodeProcess, Stores
from runtime.node.state import StateEntry
from runtime.settings import read_node
from runtime.spec import names
from runtime.spec.load import load
from runtime.stores.base import Document, Point
from runtime.stores.writer import Writer
from runtime.testing.modules import HandlerModules
from runtime.testing.stores import Collections, MemoryDocuments, MemoryPoints
from runtime.testing.values import unpacked

T = TypeVar("T")

RUNTIME_ID = "test"
# Handlers are given this many seconds of real time to finish at the end.
GRACE_S = 1.0
# Seconds by which the clock jumps while all that is left to do is to wait, for a retry say.
STEP_S = 0.25
# Real seconds without any change after which a handler is taken to wait for the clock.
PATIENCE_S = 0.2
# Real seconds that `send` lets a handler work without any change before it says so.
STUCK_S = 30.0
# Real seconds between two looks at what works in a thread.
LOOK_S = 0.001

_WATCHDOG_LOG = logging.getLogger(watchdog.__name__)

# What can be seen of the work from outside: deliveries in hand, messages not yet taken, messages stored.
Activity = tuple[int, int, int]


class _Connection(MemoryBus):
    """A connection that shows its readers."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.readers: list[Reader] = []

    def reader(self, config: ConsumerConfig, *, create: bool) -> MemoryReader:
        reader = super().reader(config, create=create)
        self.readers.append(reader)
        return reader


class Workflow:
    """Open it with `async with`. What was sent and stored can be looked at until then, and afterwards.

    path: a workflow's folder or file. workflow: its name, for a krt.yml with several. environment: where the file's
    `secrets` are found, by default the process's own.
    Opening raises WorkflowError, HandlerLoadError and whatever an `init` raises.
    """

    def __init__(self, path: Path | str, *, workflow: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.definition = load(path, workflow=workflow, check_handlers=True)
        self.clock = FakeClock()
        self._environment = os.environ if environment is None else environment
        self._stream = stream_of(self.definition, RUNTIME_ID)
        self._broker = MemoryBroker(self.clock)
        self._connections: list[_Connection] = []
        self._collections: Collections = {}
        self._points: list[Point] = []
        # Node -> errors that its next calls raise.
        self._failures: dict[str, list[Exception]] = {}
        self._client: client.Workflow | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Workflow":
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- to act ---

    async def send(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> Any:
        """Send a request and return its first answer; protobuf messages come unpacked where their class is known.

        The clock stands still while handlers work, and jumps when the request waits for a retry: no test waits.
        Raises PredictionError as a client gets it: outcome `failed` after the last attempt, `timeout` after 30 s of
        the workflow's time, when nothing ever answers.
        """
        future = self._opened().predict(inputs, state_id=state_id, headers=headers)
        return unpacked(await self._follow(future))

    async def send_all(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> list[Any]:
        """Send a request and return all its answers, early replies among them. Raises as `send` does."""
        opened = self._opened()

        async def collect() -> list[Any]:
            replies = opened.predict_all(inputs, state_id=state_id, headers=headers)
            return [unpacked(reply.value) async for reply in replies]

        return await self._follow(asyncio.create_task(collect(), name="send_all"))

    def post(self, inputs: Any, *, state_id: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send a request and let it be: `advance` moves it on, and the members to look with tell what became of it."""
        future = self._opened().predict(inputs, state_id=state_id, headers=headers)
        # Looked at, or its error would be reported as one that nobody has seen.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def fail(self, node: str, *, times: int = 1, error: Exception | None = None) -> None:
        """Let the next calls of a node's handler raise `error` (a RuntimeError by default) instead of being made."""
        known = self.definition.node(node).name
        raised = error or RuntimeError("failed on purpose")
        self._failures.setdefault(known, []).extend([raised] * times)

    async def advance(self, seconds: float) -> None:
        """Move the workflow's clock on; everything that becomes due happens, and is waited for."""
        hanging = await self._settle(PATIENCE_S)
        end_s = self.clock.monotonic() + seconds
        while (left_s := end_s - self.clock.monotonic()) > 0:
            await self.clock.advance(min(STEP_S, left_s))
            hanging = await self._settle(PATIENCE_S, known=hanging)

    # --- to look ---

    def outputs(self, node: str, channel: str = "") -> list[Any]:
        """Return what a node has sent, in order, without ERRORs; `entrypoint` is what was sent to the workflow."""
        if node != names.ENTRYPOINT:
            self.definition.node(node)
        subject = names.node_subject(self._stream, node, channel)
        stored = (each for each in self._stored(self._stream) if names.unpartitioned_subject(each.subject) == subject)
        messages = [wire.decode(each.data) for each in stored]
        sent = [message for message in messages if message.type is not MessageType.ERROR]
        return [unpacked(payload.decode_value(message.payload)) for message in sent]

    def dead_letters(self, node: str = "") -> list[DeadLetter]:
        """Return what was given up, by one node or by all, in order."""
        stream = names.dead_letter_stream(self._stream)
        letters = [DeadLetter.from_header(stored.headers[HEADER]) for stored in self._stored(stream)]
        return [letter for letter in letters if node in ("", letter.node)]

    def state(self, node: str, state_id: str = "") -> Any:
        """Return what a node keeps for a state id, as JSON has it; None while there is nothing."""
        bucket = self._broker.bucket(names.state_bucket(self._stream, self.definition.node(node).name))
        kept = bucket.entries.get(names.state_key(state_id))
        return None if kept is None else payload.decode_value(StateEntry.decode(kept.value).payload)

    def documents(self, collection: str) -> list[Document]:
        """Return the documents of a collection, in order of insertion; predictions are in `classificationMetrics`."""
        return list(self._collections.get(collection, {}).values())

    def points(self, measurement: str) -> list[Point]:
        """Return the points of a measurement, in order."""
        return [point for point in self._points if point.measurement == measurement]

    def objects(self, store: str) -> dict[str, bytes]:
        """Return what an object store of the file holds, by key. Raises ConfigError for one that is not declared."""
        return self._broker.object_stores[object_store_of(self.definition, store, RUNTIME_ID)].contents()

    # --- life ---

    async def _open(self, stack: AsyncExitStack) -> None:
        """Start in the order of a deployment: streams, writer, nodes, and last whoever sends."""
        # It compares real time with the beat of a ticker that follows the fake clock: here it would report nonsense.
        _WATCHDOG_LOG.addFilter(_nothing)
        stack.callback(_WATCHDOG_LOG.removeFilter, _nothing)
        processes = self._node_processes()
        self._set_variables(processes, stack)
        modules = HandlerModules(self.definition.folder.absolute())
        stack.callback(modules.close)
        loaded = [modules.load(node.handler) for node in self.definition.nodes]
        bus = self._connect(stack)
        await Manager(bus, manager_spec(self.definition, RUNTIME_ID), self.clock).apply()
        await self._start_writer(bus, stack)
        for process, handler in zip(processes, loaded, strict=True):
            await self._start_node(process, handler, stack)
        self._client = client.Workflow(bus, self._stream, clock=self.clock)
        await stack.enter_async_context(self._client)

    def _connect(self, stack: AsyncExitStack) -> _Connection:
        connection = _Connection(self._broker)
        self._connections.append(connection)
        stack.push_async_callback(connection.close)
        return connection

    def _node_processes(self) -> list[Process]:
        """Return the nodes' processes as they are planned, in the order of the file. Raises ConfigError."""
        target = Target(
            nats_servers=("nats://memory:4222",),
            mongo_uri="sqlite:///memory",
            influx_uri="sqlite:///memory",
            base_path=str(self.definition.folder.absolute()),
            runtime_id=RUNTIME_ID,
            grace_s=GRACE_S,
            handler_versions=handler_versions(self.definition),
            environment=self._environment,
        )
        return [process for process in plan(self.definition, target) if process.arguments == ("node",)]

    def _set_variables(self, processes: Sequence[Process], stack: AsyncExitStack) -> None:
        """Set the nodes' own variables. All share one process here, so two nodes must not differ in one."""
        own: dict[str, str] = {}
        for process in processes:
            for name, value in process.environment.items():
                if not name.startswith("KRT_") and own.setdefault(name, value) != value:
                    raise ConfigError(f"two nodes set {name} to different values; a test runs all nodes in one process")
        stack.callback(_restore_variables, {name: os.environ.get(name) for name in own})
        os.environ.update(own)

    async def _start_writer(self, bus: MemoryBus, stack: AsyncExitStack) -> None:
        desk = await WriterDesk.open(Writer(MemoryDocuments(self._collections)), bus, names.WRITER_SUBJECT)
        stack.push_async_callback(desk.close, GRACE_S)

    async def _start_node(self, process: Process, handler: LoadedHandler, stack: AsyncExitStack) -> None:
        stores = Stores(MemoryDocuments(self._collections), MemoryPoints(self._points))
        handler = self._failing(process.name, handler)
        node = NodeProcess(read_node(process.environment), self._connect(stack), stores, handler, self.clock)
        stack.push_async_callback(node.stop)
        await node.start()

    def _failing(self, node: str, handler: LoadedHandler) -> LoadedHandler:
        """Return the handler with `fail` built in. A call that fails looks like one of the function's own kind."""

        def wrapped(function: HandlerFunction) -> HandlerFunction:
            def call(ctx: Any, data: Any) -> Any:
                if self._failures.get(node):
                    raise self._failures[node].pop(0)
                return function.function(ctx, data)

            return replace(function, function=call)

        return replace(
            handler,
            default=wrapped(handler.default) if handler.default else None,
            by_node={name: wrapped(function) for name, function in handler.by_node.items()},
        )

    # --- waiting ---

    async def _follow(self, answer: "asyncio.Future[T]") -> T:
        """Wait for an answer. The clock moves only while no handler works."""
        try:
            while not answer.done():
                if await self._settle(STUCK_S, until=answer.done) is not None:
                    raise TimeoutError(f"a handler has worked for {STUCK_S:g} s; use post() and advance() if it hangs")
                if not answer.done():
                    await self.clock.advance(STEP_S)
            return await answer
        finally:
            answer.cancel()

    async def _settle(
        self, patience_s: float, *, until: Callable[[], bool] = lambda: False, known: Activity | None = None
    ) -> Activity | None:
        """Return None when no node works and nothing is left to take, or when `until()` holds.

        Return the activity when it has not changed for `patience_s` (real seconds), or is the `known` one already.
        """
        loop = asyncio.get_running_loop()
        last, changed_s = self._activity(), loop.time()
        while not until():
            await settle()
            now = self._activity()
            if now[:2] == (0, 0):
                return None
            if now != last:
                last, changed_s = now, loop.time()
            if now == known or loop.time() - changed_s >= patience_s:
                return now
            # Lets the threads of plain handlers run, too: they share the interpreter with this loop.
            await asyncio.sleep(LOOK_S)
        return None

    def _activity(self) -> Activity:
        stream = self._broker.streams.stream(self._stream)
        in_hand = sum(reader.in_hand for connection in self._connections for reader in connection.readers)
        waiting = sum(consumer.state().pending for consumer in stream.consumers.values())
        return in_hand, waiting, stream.state().last_sequence

    def _opened(self) -> client.Workflow:
        if self._client is None:
            raise RuntimeError("the workflow is not open; use it inside `async with`")
        return self._client

    def _stored(self, stream: str) -> Iterator[StoredMessage]:
        """Yield all messages of a stream, of which none is ever removed here."""
        try:
            found = self._broker.streams.stream(stream)
        except NotFoundError:  # no node keeps its dead letters
            return
        for sequence in range(1, found.state().last_sequence + 1):
            yield found.get(sequence)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _restore_variables(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
