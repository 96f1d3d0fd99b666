"""A workflow on a real server as it is deployed, but for the processes, which are tasks here and start one by one."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from runtime.bus.base import ConsumerConfig
from runtime.bus.nats import NatsBus
from runtime.bus.object_store import ObjectStore
from runtime.client import Workflow
from runtime.clock import SystemClock
from runtime.deadletter import HEADER, DeadLetter
from runtime.deploy.manager import Manager
from runtime.deploy.manager_service import read_manager_spec
from runtime.deploy.plan import Target, plan
from runtime.deploy.process import Process
from runtime.node.handler import load_handler
from runtime.node.process import NodeProcess, Stores
from runtime.settings import read_node
from runtime.spec import names
from runtime.spec.claims import claims_store, letter_claims_store
from runtime.spec.load import load
from runtime.stores.open import open_documents, open_points

# The consumers' ack wait, in seconds: what was lost with a connection comes again after it.
ACK_WAIT_S = 2.0
REQUEST_TIMEOUT_S = 2.0


class AheadClock(SystemClock):
    """Real time, but for the date, which a test moves ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time_ns(self) -> int:
        return super().time_ns() + round(self.ahead_s * 1e9)


class Deployed:
    """Open it with `open`, and close it at last. `look` is one look of the manager, whose `clock` a test moves."""

    def __init__(self, bus: NatsBus, url: str, processes: list[Process]) -> None:
        self.bus = bus
        self.clock = AheadClock()
        self._url = url
        self._processes = {process.name: process for process in processes}
        self.spec = read_manager_spec(self._processes["krt.manager"].environment["KRT_MANAGER_SPEC"])
        self.stream = self.spec.stream
        self.manager = Manager(bus, self.spec, self.clock)
        self._nodes: dict[str, tuple[NodeProcess, NatsBus]] = {}
        self._closing: list[Callable[[], Awaitable[None]]] = []

    @classmethod
    async def open(cls, folder: Path, url: str) -> "Deployed":
        """Make what the manager makes; no node runs yet."""
        target = Target(
            nats_servers=(url,),
            mongo_uri=f"sqlite:///{folder / 'documents.db'}",
            influx_uri=f"sqlite:///{folder / 'points.db'}",
            base_path=str(folder),
        )
        bus = await NatsBus.connect([url], name="manager and test", request_timeout_s=REQUEST_TIMEOUT_S)
        deployed = cls(bus, url, plan(load(folder), target))
        await deployed.manager.apply()
        for consumer in deployed.spec.consumers:
            config = ConsumerConfig(
                stream=deployed.stream,
                durable=consumer.durable,
                filter_subjects=consumer.filter_subjects,
                ack_wait_s=ACK_WAIT_S,
            )
            await bus.ensure_consumer(config)
        await deployed.look()
        return deployed

    async def start(self, *nodes: str) -> None:
        for name in nodes:
            settings = read_node(self._processes[name].environment)
            bus = await NatsBus.connect([self._url], name=name, request_timeout_s=REQUEST_TIMEOUT_S)
            stores = Stores(
                open_documents(settings.mongo_uri, settings.mongo_database), open_points(settings.influx_uri)
            )
            node = NodeProcess(settings, bus, stores, load_handler(settings.base_path, settings.handler_path))
            self._nodes[name] = node, bus
            await node.start()

    async def stop(self, *nodes: str) -> None:
        for name in nodes:
            node, bus = self._nodes.pop(name)
            await node.stop()
            await bus.close()

    async def client(self) -> Workflow:
        """Return a client on a connection of its own."""
        bus = await NatsBus.connect([self._url], name="client", request_timeout_s=REQUEST_TIMEOUT_S)
        client = Workflow(bus, self.stream)
        self._closing += [client.close, bus.close]
        await client.start()
        return client

    async def look(self, *, later_s: float = 0.0) -> None:
        """Let the manager look once, so many seconds later than it is."""
        self.clock.ahead_s = later_s
        await self.manager.look()

    async def payloads(self) -> ObjectStore:
        return await self.bus.object_store(claims_store(self.stream))

    async def letter_payloads(self) -> ObjectStore:
        return await self.bus.object_store(letter_claims_store(self.stream))

    async def letters(self) -> list[DeadLetter]:
        """Return the dead letters."""
        scan = await self.bus.scan(names.dead_letter_stream(self.stream))
        found = []
        while page := await scan.read():
            found += [DeadLetter.from_header(message.headers[HEADER]) for message in page]
        await scan.close()
        return found

    async def stored(self, node: str) -> int:
        """Return how many outputs of a node the stream holds: a repeated one would count twice."""
        return (await self.bus.stream_state(self.stream)).subjects.get(names.node_subject(self.stream, node), 0)

    async def close(self) -> None:
        for close in self._closing:
            await close()
        await self.stop(*list(self._nodes))
        await self.bus.close()
