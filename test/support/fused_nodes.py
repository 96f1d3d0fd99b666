"""The processes of a workflow with fused nodes on a real nats-server, as `krt run` plans them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runtime import wire
from runtime.bus.base import Confirmation, ConsumerConfig
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_spec import manager_spec
from runtime.deploy.plan import Target, plan
from runtime.deploy.wiring import stream_of
from runtime.message import Message, MessageType
from runtime.payload import decode_value, encode_value
from runtime.spec import names
from runtime.spec.load import load
from test.support.runtime_child import PATIENCE_S, RuntimeChild

ACK_WAIT_S = 2.0


class FusedNodes:
    """One workflow: its streams and consumers are made, its nodes are started by `start`."""

    def __init__(self, bus: NatsBus, folder: Path, url: str) -> None:
        self.bus = bus
        self.url = url
        self.definition = load(folder, check_handlers=True)
        self.stream = stream_of(self.definition, "local")
        self.children: list[RuntimeChild] = []
        self._folder = folder
        target = Target(
            nats_servers=(url,),
            mongo_uri=f"sqlite:///{folder / 'documents.db'}",
            influx_uri=f"sqlite:///{folder / 'points.db'}",
            base_path=str(folder),
            writer_subject=names.writer_subject(self.stream),
            grace_s=5.0,
        )
        self.processes = {each.name: each for each in plan(self.definition, target)}
        self._publisher = bus.publisher(self.stream)

    async def start(self, process: str) -> RuntimeChild:
        """Start one replica, and wait until it is ready."""
        planned = self.processes[process]
        log_file = self._folder / f"{process}.log"
        child = RuntimeChild(["runtime", *planned.arguments], planned.environment, log_file)
        self.children.append(child)
        return await child.ready()

    async def feed(self, values: Iterable[Any]) -> None:
        """Store one request for each value: `r0`, `r1` and so on."""
        stored = []
        for number, value in enumerate(values):
            message = Message(request_id=f"r{number}", payload=encode_value(value), from_node=names.ENTRYPOINT)
            confirm = Confirmation()
            await self._publisher.publish(
                names.entrypoint_subject(self.stream), wire.encode(message), message_id=f"in.{number}", confirm=confirm
            )
            stored.append(confirm)
        for confirm in stored:
            await confirm

    async def count(self, node: str) -> int:
        """Return how many outputs of a node the stream holds."""
        return (await self.bus.stream_state(self.stream)).subjects.get(names.node_subject(self.stream, node), 0)

    async def seen(self, node: str, count: int) -> None:
        """Wait until a node has so many outputs."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.count(node) < count:
                pass

    async def settled(self) -> None:
        """Wait until every consumer has acknowledged everything."""
        async with asyncio.timeout(PATIENCE_S):
            while any(each.pending or each.ack_pending for each in await self.bus.consumer_states(self.stream)):
                pass

    async def outputs(self, node: str) -> list[Any]:
        """Return the values that a node has put into the stream, in its order, without ERRORs."""
        scan = await self.bus.scan(self.stream, subjects=[names.node_subject(self.stream, node)])
        found: list[Message] = []
        while page := await scan.read():
            found += [wire.decode(stored.data) for stored in page]
        await scan.close()
        return [decode_value(message.payload) for message in found if message.type is MessageType.OK]

    async def close(self) -> None:
        for child in self.children:
            child.close()
        await self._publisher.close()


@asynccontextmanager
async def open_nodes(url: str, folder: Path) -> AsyncIterator[FusedNodes]:
    """Make what the manager makes for the workflow of a folder."""
    bus = await NatsBus.connect([url], name="fused nodes")
    nodes = FusedNodes(bus, folder, url)
    try:
        spec = manager_spec(nodes.definition, "local")
        await Manager(bus, spec, SystemClock()).apply()
        for each in spec.consumers:  # what a killed process had in hand is to come again soon
            await bus.ensure_consumer(
                ConsumerConfig(
                    stream=spec.stream,
                    durable=each.durable,
                    filter_subjects=each.filter_subjects,
                    ack_wait_s=ACK_WAIT_S,
                )
            )
        yield nodes
    finally:
        await nodes.close()
        await bus.close()
