"""A workflow in memory whose nodes are fused or not: what comes of a request has to be the same."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from runtime import client, wire
from runtime.bus.stored import StoredMessage
from runtime.clock import SystemClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.errors import PredictionError
from runtime.message import Message, MessageType
from runtime.node.process import NodeProcess
from runtime.payload import decode_value
from runtime.spec import names
from runtime.spec.load import load
from runtime.testing.deployment import MemoryDeployment

PATIENCE_S = 10.0
# Keys of the nodes of the tests: retries that nobody has to wait for.
RETRY = "retry: {attempts: 3, first: 10ms, factor: 1, jitter: 0}"


class Answers(NamedTuple):
    """What a caller got: values, and how the request ended: `ok`, or outcome, node and text of the error."""

    values: list[Any]
    end: str


class Chain:
    """One workflow, opened by `open_chain`."""

    def __init__(self, deployment: MemoryDeployment, caller: client.Workflow) -> None:
        self.deployment = deployment
        self.caller = caller
        self.stream = deployment.stream

    async def send(self, inputs: Any) -> Answers:
        """Send a request, and wait until every message of the workflow is done."""
        values: list[Any] = []
        end = "ok"
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for reply in self.caller.predict_all(inputs):
                    values.append(reply.value)
        except PredictionError as error:
            end = f"{error.outcome} at {error.node}: {error.detail}"
        await self.settled()
        return Answers(values, end)

    async def settled(self) -> None:
        """Wait until no consumer has anything left."""
        async with asyncio.timeout(PATIENCE_S):
            while any(each.pending or each.ack_pending for each in self._consumers()):
                await settle()

    def _consumers(self) -> list[Any]:
        return [each.state() for each in self.deployment.broker.streams.stream(self.stream).consumers.values()]

    def stored(self, stream: str = "") -> list[StoredMessage]:
        found = self.deployment.broker.streams.stream(stream or self.stream)
        return [found.get(sequence) for sequence in range(1, found.state().last_sequence + 1)]

    def messages(self, node: str, channel: str = "") -> list[Message]:
        subject = names.node_subject(self.stream, node, channel)
        return [wire.decode(stored.data) for stored in self.stored() if stored.subject == subject]

    def outputs(self, node: str, channel: str = "") -> list[Any]:
        """Return the values that a node has put into the stream, sorted: nodes work on several at once."""
        sent = (message for message in self.messages(node, channel) if message.type is not MessageType.ERROR)
        return sorted((decode_value(message.payload) for message in sent), key=str)

    def letters(self) -> list[tuple[DeadLetter, Any]]:
        """Return the dead letters with the values of their inputs, None for one larger than a message."""
        found = self.stored(names.dead_letter_stream(self.stream))
        return [
            (
                DeadLetter.from_header(stored.headers[HEADER]),
                decode_value(wire.decode(stored.data, takes_claims=True).payload),
            )
            for stored in found
        ]

    def documents(self, collection: str) -> list[Any]:
        """Return the documents without their ids, sorted; ids of one collection are unique anyhow."""
        kept = self.deployment.collections.get(collection, {}).values()
        return sorted(({key: value for key, value in each.items() if key != "_id"} for each in kept), key=str)

    def node(self, name: str) -> NodeProcess:
        [found] = [node for node in self.deployment._nodes if node.settings.node == name]
        return found


def write_flow(folder: Path, workflow: str, handlers: Mapping[str, str]) -> Path:
    """Write `workflow.yaml`, and a handler in a folder of its own for each node."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.yaml").write_text(f"name: chain\n{textwrap.dedent(workflow)}")
    for node, source in handlers.items():
        (folder / node).mkdir(exist_ok=True)
        (folder / node / "handler.py").write_text(textwrap.dedent(source))
    return folder


@asynccontextmanager
async def open_chain(folder: Path, *, fused: bool) -> AsyncIterator[Chain]:
    """Run the workflow of a folder in memory and in real time."""
    deployment = MemoryDeployment(load(folder, check_handlers=True), "test", SystemClock(), fused=fused)
    await deployment.start()
    try:
        async with client.Workflow(deployment.connect(), deployment.stream) as caller:
            yield Chain(deployment, caller)
    finally:
        await deployment.stop()
