"""Nodes as child processes against a real nats-server, and the counting of what goes in and comes out."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.bus.base import Confirmation, ConsumerConfig, Reader, StreamConfig
from runtime.bus.nats import NatsBus
from runtime.message import Message
from runtime.node.handler import load_handler
from runtime.node.process import NodeProcess, Stores
from runtime.payload import decode_value, encode_value
from runtime.settings import read_node
from runtime.spec import names
from runtime.spec.node import NodeSpec, Partitions
from runtime.stores.open import open_documents, open_points
from test.support.node import (
    DEAD_LETTERS,
    DURABLE,
    ENTRYPOINT,
    NODE,
    OUTPUT,
    STREAM,
    buckets_of,
    consumers_of,
    environment,
    write_handler,
)
from test.support.runtime_child import PATIENCE_S, RuntimeChild

# How a replica is started; `kill_at` is the same with an end at a stated point.
RUNTIME = ("runtime",)


def crashing_handler(statements: str, flag: Path) -> str:
    """Return the source of a handler that runs the statements, and sends its data if they do not.

    Their first `crash()` ends the process with exit code 9; `flag` says that it has.
    """
    return f"""
import os
from pathlib import Path

def crash():
    if not Path({str(flag)!r}).exists():
        Path({str(flag)!r}).touch()
        os._exit(9)

async def handler(ctx, data: int):
    {statements}
    {"" if "send_" in statements else "await ctx.send_output(data)"}
"""


class NodeChild(RuntimeChild):
    """One replica as `python -m runtime node`."""

    def __init__(
        self, folder: Path, url: str, spec: NodeSpec, module: Sequence[str] = RUNTIME, **variables: str
    ) -> None:
        own = environment(folder, NATS_SERVER=url, NODE_SPEC=spec.model_dump_json(), **variables)
        super().__init__([*module, "node"], own, folder / "node.log")


class Workbench:
    """The streams of one node on a real server, with a feeder and a reader of the outputs."""

    def __init__(self, bus: NatsBus, folder: Path, url: str) -> None:
        self.bus = bus
        self.folder = folder
        self.url = url
        self.seen: list[Any] = []
        self.durables: list[str] = []
        self.partitions: Partitions | None = None
        self._sequences: set[int] = set()
        self._removed: set[int] = set()
        self._children: list[NodeChild] = []
        self._nodes: list[tuple[NodeProcess, NatsBus]] = []
        self._publisher = bus.publisher(STREAM)
        self._reader: Reader | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        folder: Path,
        handler: str,
        *,
        ack_wait_s: float = 2.0,
        max_bytes: int = 0,
        spec: NodeSpec | None = None,
    ) -> "Workbench":
        """spec: of an ordered node, whose partitions have consumers of their own, of a join or an atomic node."""
        bus = await NatsBus.connect([url], name="workbench", request_timeout_s=2.0)
        subjects = tuple(names.stream_subjects(STREAM))
        atomic = spec is not None and spec.atomic
        await bus.ensure_stream(StreamConfig(name=STREAM, subjects=subjects, max_bytes=max_bytes, atomic=atomic))
        await bus.ensure_stream(StreamConfig(name=DEAD_LETTERS, subjects=(f"{DEAD_LETTERS}.>",)))
        bench = cls(bus, folder, url)
        bench.consumer = ConsumerConfig(
            stream=STREAM, durable=DURABLE, filter_subjects=(ENTRYPOINT,), ack_wait_s=ack_wait_s
        )
        inputs = tuple(spec.join.parts) if spec and spec.join else (ENTRYPOINT,)
        for config in consumers_of(spec, inputs, ack_wait_s=ack_wait_s) if spec else [bench.consumer]:
            bench.durables.append(config.durable)
            await bus.ensure_consumer(config)
        for bucket in buckets_of(spec) if spec else []:
            await bus.key_value(bucket, create=True)
        bench.partitions = Partitions(count=spec.partitions) if spec and spec.partitions else None
        write_handler(folder, handler)
        bench._reader = bus.reader(
            ConsumerConfig(stream=STREAM, durable="check", filter_subjects=(OUTPUT,)), create=True
        )
        bench._reader.prefetch = 500
        await bench._reader.start()
        return bench

    consumer: ConsumerConfig

    async def start_child(self, spec: NodeSpec, **variables: str) -> NodeChild:
        return await self.launch_child(spec, **variables).ready()

    def launch_child(self, spec: NodeSpec, module: Sequence[str] = RUNTIME, **variables: str) -> NodeChild:
        """Start a replica without waiting for it."""
        child = NodeChild(self.folder, self.url, spec, module, **variables)
        self._children.append(child)
        return child

    async def start_here(self, spec: NodeSpec, **variables: str) -> NodeProcess:
        """Run a replica in this process, on a connection of its own."""
        settings = read_node(
            environment(self.folder, NATS_SERVER=self.url, NODE_SPEC=spec.model_dump_json(), **variables)
        )
        bus = await NatsBus.connect([self.url], name="node", request_timeout_s=settings.nats.request_timeout_s)
        stores = Stores(open_documents(settings.mongo_uri, settings.mongo_database), open_points(settings.influx_uri))
        node = NodeProcess(settings, bus, stores, load_handler(settings.base_path, settings.handler_path))
        self._nodes.append((node, bus))
        await node.start()
        return node

    async def feed(
        self, values: Iterable[Any], state_id: Callable[[Any], str] = lambda _: "", subject: str = ENTRYPOINT
    ) -> None:
        """Store one message for each value; returns once all of them are stored. state_id: of a value's message."""
        stored = []
        for number, value in enumerate(values):
            message = Message(
                request_id=f"r{number}",
                payload=encode_value(value),
                from_node="entrypoint",
                state_id=state_id(value),
            )
            to = subject
            if self.partitions is not None:
                to = self.partitions.subject(subject, message.state_id, message.request_id)
            confirm = Confirmation()
            message_id = f"in.{subject}.{value}"
            await self._publisher.publish(to, wire.encode(message), message_id=message_id, confirm=confirm)
            stored.append(confirm)
        for confirm in stored:
            await confirm

    async def see(self, count: int, patience_s: float = PATIENCE_S) -> list[Any]:
        """Wait until `count` outputs are stored in all; returns their values in the order of the stream."""
        assert self._reader is not None
        try:
            async with asyncio.timeout(patience_s):
                while len(self.seen) < count:
                    delivery = await self._reader.take()
                    self._reader.ack(delivery)
                    if delivery.sequence in self._sequences:  # our own ack was lost
                        continue
                    self._sequences.add(delivery.sequence)
                    # One that lies in an object store counts, but has no value here.
                    self.seen.append(decode_value(wire.decode(delivery.data, takes_claims=True).payload))
        except TimeoutError:
            states = await self.bus.consumer_states(STREAM)
            raise AssertionError(f"{len(self.seen)} of {count} outputs after {patience_s} s; {states}") from None
        return self.seen

    async def forget_seen(self) -> None:
        """Remove the outputs that were seen, as the manager's purge does, to make room in a full stream."""
        for sequence in self._sequences - self._removed:
            await self.bus.delete_message(STREAM, sequence)
            self._removed.add(sequence)

    async def settled(self) -> None:
        """Wait until the server holds nothing of the entrypoint as unacknowledged: the last acks are on their way."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                states = [state for state in await self.bus.consumer_states(STREAM) if state.name in self.durables]
                if not any(state.pending or state.ack_pending for state in states):
                    return

    async def stored(self) -> int:
        """Return how many outputs the stream holds: a repeated one would count twice."""
        return (await self.bus.stream_state(STREAM)).subjects.get(OUTPUT, 0)

    async def dead_letters(self) -> int:
        return (await self.bus.stream_state(DEAD_LETTERS)).messages

    async def delete_consumer(self) -> None:
        answer = await self.bus.request(f"$JS.API.CONSUMER.DELETE.{STREAM}.{DURABLE}", b"", timeout_s=5)
        assert b'"success":true' in answer.data

    async def close(self) -> None:
        for child in self._children:
            child.close()
            print(f"log of {NODE}:\n{child.log()[-4000:]}")
        for node, bus in self._nodes:
            await node.stop()
            await bus.close()
        if self._reader is not None:
            await self._reader.close()
        await self._publisher.close()
        await self.bus.close()
