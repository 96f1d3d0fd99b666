"""A whole workflow in memory: the runners of a deployment on an in-memory bus, with in-memory stores and a fake clock.

Handlers, retries, dead letters, ids and routing are those of a deployment, planned from the same file. Left out:
processes, the network and the disk; one replica runs of each node, and the manager never purges.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from runtime import client, payload, wire
from runtime.bus.base import StoredMessage
from runtime.clock import FakeClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.deploy.wiring import object_store_of
from runtime.errors import NotFoundError
from runtime.message import Message, MessageType
from runtime.node import watchdog
from runtime.node.handler import HandlerFunction, LoadedHandler
from runtime.node.state import StateEntry
from runtime.spec import names
from runtime.spec.claims import claims_store
from runtime.spec.load import load
from runtime.stores.base import Document, Point
from runtime.testing.deployment import MemoryDeployment
from runtime.testing.values import unpacked

T = TypeVar("T")

RUNTIME_ID = "test"
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


class Workflow:
    """Open it with `async with`. What was sent and stored can be looked at until then, and afterwards.

    path: a workflow's folder or file. workflow: its name, for a krt.yml with several. environment: where the file's
    `secrets` are found, by default the process's own.
    Opening raises WorkflowError, HandlerLoadError and whatever an `init` raises.
    """

    def __init__(self, path: Path | str, *, workflow: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.definition = load(path, workflow=workflow, check_handlers=True)
        self.clock = FakeClock()
        self._deployment = MemoryDeployment(
            self.definition, RUNTIME_ID, self.clock, environment=environment, wrap=self._failing
        )
        self._stream = self._deployment.stream
        self._broker = self._deployment.broker
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
        messages = [wire.decode(each.data, takes_claims=True) for each in stored]
        sent = [message for message in messages if message.type is not MessageType.ERROR]
        return [unpacked(payload.decode_value(self._payload_of(message))) for message in sent]

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
        return list(self._deployment.collections.get(collection, {}).values())

    def points(self, measurement: str) -> list[Point]:
        """Return the points of a measurement, in order."""
        return [point for point in self._deployment.points if point.measurement == measurement]

    def objects(self, store: str) -> dict[str, bytes]:
        """Return what an object store of the file holds, by key. Raises ConfigError for one that is not declared."""
        return self._broker.object_stores[object_store_of(self.definition, store, RUNTIME_ID)].contents()

    # --- life ---

    async def _open(self, stack: AsyncExitStack) -> None:
        """Start the workflow, and last whoever sends."""
        # It compares real time with the beat of a ticker that follows the fake clock: here it would report nonsense.
        _WATCHDOG_LOG.addFilter(_nothing)
        stack.callback(_WATCHDOG_LOG.removeFilter, _nothing)
        await self._deployment.start()
        stack.push_async_callback(self._deployment.stop)
        self._client = client.Workflow(self._deployment.connect(), self._stream, clock=self.clock)
        await stack.enter_async_context(self._client)

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
        in_hand = sum(reader.in_hand for connection in self._deployment.connections for reader in connection.readers)
        if self._client is not None:
            in_hand += self._client.carrying
        waiting = sum(consumer.state().pending for consumer in stream.consumers.values())
        # What waits for others of its batch is moved on by the clock, as a message that waits for a retry is.
        return in_hand - self._deployment.gathering, waiting, stream.state().last_sequence

    def _opened(self) -> client.Workflow:
        if self._client is None:
            raise RuntimeError("the workflow is not open; use it inside `async with`")
        return self._client

    def _payload_of(self, message: Message) -> bytes:
        if message.claim is None:
            return message.payload
        # None is ever removed here, as with messages.
        return self._broker.object_stores[claims_store(self._stream)].find(message.claim.object).data

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
