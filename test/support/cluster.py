"""Three nats-servers as one JetStream cluster on loopback, whose members can be killed, frozen and cut off.

Every route runs through a proxy of its own, one for each ordered pair of members. What a member advertises to the
others leads nowhere, or gossip would build routes around the proxies.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.errors import BusError
from test.support.ports import free_port

SIZE = 3
# Seconds until a cluster that has not chosen its leaders is taken for broken.
PATIENCE_S = 30.0
# An address on which nothing listens.
NOWHERE = "127.0.0.1:1"


class RouteProxy:
    """One direction of a route: forwards TCP connections until it is cut, which closes and refuses them."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        self._is_cut = False

    async def stop(self) -> None:
        assert self._server is not None, "start first"
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _forward(self, near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            if self._is_cut:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers |= {near_writer, far_writer}
            await asyncio.gather(_copy(near_reader, far_writer), _copy(far_reader, near_writer))
        except OSError:  # the member is down, or the route was cut
            return
        finally:
            for writer in (near_writer, far_writer):
                if writer is not None:
                    writer.transport.abort()
                    self._writers.discard(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


class Cluster:
    """The members, by number from 0. Methods that end a member return at once; `start` returns when it listens."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder = folder
        self._binary = binary
        self._proxies: dict[tuple[int, int], RouteProxy] = {}
        self._frozen: set[int] = set()
        self.members: list[EmbeddedServer] = []

    @property
    def urls(self) -> list[str]:
        """Where clients connect, by member."""
        return [member.url for member in self.members]

    async def start(self) -> None:
        route_ports = [free_port() for _ in range(SIZE)]
        for origin in range(SIZE):
            for target in (other for other in range(SIZE) if other != origin):
                self._proxies[origin, target] = RouteProxy(route_ports[target])
                await self._proxies[origin, target].start()
        for number, route_port in enumerate(route_ports):
            options = self._options(number, route_port)
            member = EmbeddedServer(
                self._folder / f"member-{number}", binary=self._binary, port=free_port(), options=options
            )
            self.members.append(member)
            await member.start()
        await self._wait_until_it_stores()

    async def stop(self) -> None:
        for number in list(self._frozen):
            self.thaw(number)
        for member in self.members:
            await member.stop()
        for proxy in self._proxies.values():
            await proxy.stop()

    def kill(self, number: int) -> None:
        self.members[number].kill()

    async def restart(self, number: int) -> None:
        await self.members[number].start()

    def freeze(self, number: int) -> None:
        """Let it do nothing, with all its connections open."""
        os.kill(self.members[number].pid, signal.SIGSTOP)
        self._frozen.add(number)

    def thaw(self, number: int) -> None:
        os.kill(self.members[number].pid, signal.SIGCONT)
        self._frozen.discard(number)

    def isolate(self, number: int) -> None:
        """Cut every route from and to a member; its clients stay with it."""
        for proxy in self._routes_of(number):
            proxy.cut()

    def heal(self, number: int) -> None:
        for proxy in self._routes_of(number):
            proxy.heal()

    async def leader_of(self, bus: NatsBus, stream: str) -> int:
        """Return the member that leads the stream; waits while there is none."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(BusError):
                    if leader := (await bus.stream_placement(stream)).leader:
                        return int(leader.removeprefix("member-"))
                await asyncio.sleep(0.1)

    async def leader_changes(self, stream: str, before: int) -> None:
        """Wait until the others have chosen one of themselves to lead the stream in place of `before`."""
        others = [url for number, url in enumerate(self.urls) if number != before]
        bus = await NatsBus.connect(others, name="cluster", request_timeout_s=2.0)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.leader_of(bus, stream) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            await bus.close()

    def last_election_s(self, stream: str) -> float:
        """Return when the members last told of a new leader, of the stream or of a consumer of it (unix time)."""
        told = re.compile(rf"^\[\d+\] (\S+ \S+) .* leader for '\$G > {re.escape(stream)}(?: > .*)?'$", re.MULTILINE)
        times = [time for member in self.members for time in told.findall(member.log_tail(lines=2_000))]
        return datetime.strptime(max(times), "%Y/%m/%d %H:%M:%S.%f").timestamp()

    async def all_current(self, bus: NatsBus, stream: str) -> None:
        """Wait until every member has what the leader of the stream has."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(BusError):
                    placement = await bus.stream_placement(stream)
                    if len(placement.followers) == SIZE - 1 and not placement.behind():
                        return
                await asyncio.sleep(0.1)

    def _routes_of(self, number: int) -> list[RouteProxy]:
        return [proxy for pair, proxy in self._proxies.items() if number in pair]

    def _options(self, number: int, route_port: int) -> Mapping[str, Any]:
        routes = [proxy.port for pair, proxy in self._proxies.items() if pair[0] == number]
        return {
            "server_name": f"member-{number}",
            "cluster": {
                "name": "krt-test",
                "listen": f"127.0.0.1:{route_port}",
                "advertise": NOWHERE,
                "pool_size": -1,
                "routes": [f"nats://127.0.0.1:{port}" for port in routes],
            },
        }

    async def _wait_until_it_stores(self) -> None:
        """The first request to a new cluster may find no leader of the whole yet."""
        bus = await NatsBus.connect(self.urls, name="cluster", request_timeout_s=2.0)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(BusError):
                        await bus.ensure_stream(StreamConfig(name="probe", subjects=("probe",), replicas=SIZE))
                        return
                    await asyncio.sleep(0.1)
        finally:
            await bus.close()


@contextlib.asynccontextmanager
async def running_cluster(folder: Path, binary: Path) -> AsyncIterator[Cluster]:
    """Start a cluster, and stop it at the end; the logs of its members are shown when the test fails."""
    cluster = Cluster(folder, binary)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
        for member in cluster.members:
            print(f"log of {member.store.name}:\n{member.log_tail(lines=60)}")
