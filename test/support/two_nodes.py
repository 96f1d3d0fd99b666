"""A workflow of two nodes on real servers, under load: as it is deployed, but for the processes, which are tasks here.

The first node fails at some messages once, so that retries, and the record of them, are part of the load.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from runtime import wire
from runtime.bus.base import Confirm, ConsumerConfig, Publisher, Reader
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deploy.manager import Manager
from runtime.deploy.manager_service import read_manager_spec
from runtime.deploy.plan import Target, plan
from runtime.deploy.process import Process
from runtime.errors import BusError
from runtime.message import Message
from runtime.node.handler import load_handler
from runtime.node.process import NodeProcess, Stores
from runtime.payload import decode_value, encode_value
from runtime.settings import read_node
from runtime.spec import names
from runtime.spec.load import load
from runtime.stores.open import open_documents, open_points

WORKFLOW = """
name: flow
stream: {{replicas: {replicas}}}
nodes:
  - {{name: first, handler: first.py, retry: {{attempts: 5, first: 50ms}}}}
  - {{name: second, handler: second.py}}
"""
FIRST = """
import asyncio

async def handler(ctx, data: int):
    await asyncio.sleep(0.001)
    if data % 40 == 0 and ctx.attempt == 1:
        raise ValueError("once in a while")
    return data
"""
SECOND = """
async def handler(ctx, data: int):
    return data
"""
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 60.0
# The consumers' ack wait, in seconds.
ACK_WAIT_S = 4.0
# Messages between feeder and end, at most; and how often the rate is looked at, and over how long.
IN_FLIGHT = 400
LOOK_EVERY_S = 0.05
RATE_OVER_S = 0.5


class TwoNodes:
    """The running workflow with a feeder and a reader of what comes out; open it with `running`."""

    def __init__(self, bus: NatsBus, stream: str, publisher: Publisher, reader: Reader) -> None:
        self.bus = bus
        self.stream = stream
        # Every value that was confirmed, and every one that came out, in their order.
        self.fed: list[int] = []
        self.seen: list[int] = []
        self.refusals: list[BusError] = []
        self._publisher = publisher
        self._reader = reader
        self._sequences: set[int] = set()
        self._arrivals_s: deque[float] = deque()
        self._given = 0
        self._feeding = True

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, servers: Sequence[str], replicas: int) -> AsyncIterator["TwoNodes"]:
        manager, nodes = _processes(folder, servers, replicas)
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(_connected(servers, "manager and test"))
            spec = read_manager_spec(manager.environment["KRT_MANAGER_SPEC"])
            keeper = Manager(bus, spec, SystemClock())
            await keeper.apply()
            for consumer in spec.consumers:
                # What was settled while a leader was missing comes again after the ack wait; 30 s would only be waited.
                await bus.ensure_consumer(
                    ConsumerConfig(
                        stream=spec.stream,
                        durable=consumer.durable,
                        filter_subjects=consumer.filter_subjects,
                        ack_wait_s=ACK_WAIT_S,
                    )
                )
            for node in nodes:
                await stack.enter_async_context(_running_node(node, servers))
            output = names.node_subject(spec.stream, "second")
            reader = bus.reader(
                ConsumerConfig(stream=spec.stream, durable="check", filter_subjects=(output,), ack_wait_s=ACK_WAIT_S),
                create=True,
            )
            reader.prefetch = IN_FLIGHT
            await reader.start()
            stack.push_async_callback(reader.close)
            publisher = bus.publisher(spec.stream)
            stack.push_async_callback(publisher.close)
            flow = cls(bus, spec.stream, publisher, reader)
            tasks = [asyncio.create_task(work) for work in (keeper.run(), flow._feed(), flow._read())]
            yield flow
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def rate(self) -> float:
        """Return how many messages a second came out lately."""
        now_s = time.monotonic()
        while self._arrivals_s and self._arrivals_s[0] < now_s - RATE_OVER_S:
            self._arrivals_s.popleft()
        return len(self._arrivals_s) / RATE_OVER_S

    async def measure_rate(self, over_s: float) -> float:
        """Return the rate of an undisturbed workflow."""
        await self.see_more(IN_FLIGHT)
        before, started_s = len(self.seen), time.monotonic()
        await asyncio.sleep(over_s)
        return (len(self.seen) - before) / (time.monotonic() - started_s)

    async def wait_for_rate(self, rate: float, limit_s: float) -> float:
        """Wait until the rate sank and is at least `rate` again, and return when that was (monotonic)."""
        async with asyncio.timeout(limit_s):
            while self.rate() > rate / 4:  # noqa: ASYNC110 - no event tells of what does not arrive
                await asyncio.sleep(LOOK_EVERY_S)
            while self.rate() < rate:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
        return time.monotonic()

    async def nothing_is_confirmed(self, for_s: float) -> None:
        """Check that, once what was under way is over, no publish is confirmed and nothing comes out."""
        await asyncio.sleep(1.0)
        before = len(self.fed), len(self.seen)
        await asyncio.sleep(for_s)
        assert (len(self.fed), len(self.seen)) == before

    async def see_more(self, count: int) -> None:
        """Wait until so many more messages came out."""
        await self._see(len(self.seen) + count)

    async def finish(self) -> list[int]:
        """Stop feeding, wait for everything that was fed, and return what came out, sorted."""
        self._feeding = False
        await self._publisher.flush()
        assert self.refusals == []
        await self._see(len(self.fed))
        # What is there twice would come now: every node has settled all that it read.
        async with asyncio.timeout(PATIENCE_S):
            while await self._is_busy():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_EVERY_S)
        return sorted(self.seen)

    async def _is_busy(self) -> bool:
        return any(state.pending or state.ack_pending for state in await self.bus.consumer_states(self.stream))

    async def _see(self, count: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(self.seen) < count:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            missing = sorted(set(self.fed) - set(self.seen))
            raise AssertionError(f"{len(self.seen)} of {count} came out; missing {missing[:20]}") from None

    async def _feed(self) -> None:
        subject = names.entrypoint_subject(self.stream)
        while self._feeding:
            if self._given - len(self.seen) >= IN_FLIGHT:
                await asyncio.sleep(0.001)
                continue
            value, self._given = self._given, self._given + 1
            message = Message(request_id=f"r{value}", payload=encode_value(value), from_node="entrypoint")
            await self._publisher.publish(
                subject, wire.encode(message), message_id=f"in.{value}", confirm=self._confirm(value)
            )

    def _confirm(self, value: int) -> Confirm:
        def confirm(error: BusError | None) -> None:
            if error is None:
                self.fed.append(value)
            else:
                self.refusals.append(error)

        return confirm

    async def _read(self) -> None:
        while True:
            delivery = await self._reader.take()
            self._reader.ack(delivery)
            if delivery.sequence not in self._sequences:  # else the reader's own ack was lost
                self._sequences.add(delivery.sequence)
                self._arrivals_s.append(time.monotonic())
                self.seen.append(decode_value(wire.decode(delivery.data).payload))


def _processes(folder: Path, servers: Sequence[str], replicas: int) -> tuple[Process, list[Process]]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(replicas=replicas))
    (folder / "first.py").write_text(FIRST)
    (folder / "second.py").write_text(SECOND)
    data = f"sqlite:///{folder / 'data.db'}"
    target = Target(nats_servers=tuple(servers), mongo_uri=data, influx_uri=data, base_path=str(folder))
    processes = plan(load(folder), target)
    return processes[0], [process for process in processes if process.arguments == ("node",)]


@asynccontextmanager
async def _connected(servers: Sequence[str], name: str) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect(list(servers), name=name, request_timeout_s=2.0)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def _running_node(process: Process, servers: Sequence[str]) -> AsyncIterator[None]:
    settings = read_node({**process.environment, "KRT_SHUTDOWN_GRACE": "1"})
    stores = Stores(open_documents(settings.mongo_uri, settings.mongo_database), open_points(settings.influx_uri))
    async with _connected(servers, settings.node) as bus:
        node = NodeProcess(settings, bus, stores, load_handler(settings.base_path, settings.handler_path))
        await node.start()
        try:
            yield
        finally:
            await node.stop()
