"""`krt model serve FILE`: the models of a file on this machine, with NATS where none is given."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime import log as logs
from runtime.bus.base import Bus
from runtime.cli import exits
from runtime.cli.console import Console
from runtime.cli.fleet_place import (
    FLEET_FILE,
    LOCK_FILE,
    ClusterTarget,
    FleetPlace,
    connected,
    fleet_folder,
    nearest_server,
)
from runtime.cli.local_nats import embedded_nats, keep_running
from runtime.cli.local_run import process_command
from runtime.cli.model_logs import ModelLogs
from runtime.cli.run_file import FOLDER
from runtime.cli.serving import end_processes, on_signals, only_one, stopped_or_closed
from runtime.clock import SystemClock
from runtime.deploy.fleet import Fleet
from runtime.deploy.fleet_file import FleetFile
from runtime.deploy.fleet_plan import FleetTarget
from runtime.deploy.supervisor import Supervisor
from runtime.settings import read_credentials_folder, redact


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `krt model serve FILE` was asked for. place: its `.krt/` holds logs and, for an own server, data."""

    file: Path
    place: Path
    nats: str
    port: int
    log_level: str


def main(options: ServeOptions) -> int:
    """Serve until the end, and return the exit code. Raises ConfigError, ServerError, BusError."""
    # Not uvloop: children are started here.
    return asyncio.run(ServedFile(options).run())


class ServedFile:
    """One run of a fleet, from the check of its file to the end of its last host."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._file = FleetFile(options.file)
        self._cluster = self._file.models_file.cluster
        self._folder = fleet_folder(options.place, self._cluster)
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._console = Console(on_closed=self._stop.set)
        self._exit_code = exits.OK

    async def run(self) -> int:
        logs.configure(level=self._options.log_level, stream=sys.stdout)
        refusal = f"another `krt model serve` has the cluster {self._cluster} in {self._options.place}: stop that one"
        with only_one(self._folder / LOCK_FILE, refusal), on_signals(self._on_signal), ModelLogs(self._folder) as files:
            async with self._nats() as servers, connected(self._target(servers), name="krt model serve") as bus:
                self._console.name_processes([model.id for model in self._file.models_file.models])
                await self._serve(servers, bus, files)
        return self._exit_code

    def _target(self, servers: tuple[str, ...]) -> ClusterTarget:
        return ClusterTarget(cluster=self._cluster, nats=",".join(servers))

    async def _serve(self, servers: tuple[str, ...], bus: Bus, files: ModelLogs) -> None:
        def on_line(name: str, line: str) -> None:
            self._console.line(name, line)
            files.line(name, line)

        target = FleetTarget(
            nats_servers=servers, credentials=read_credentials_folder(), log_level=self._options.log_level
        )
        async with Supervisor(on_line=on_line, command=process_command()) as supervisor:
            fleet = Fleet(self._file, supervisor, bus, target, SystemClock())
            async with self._told(servers, fleet):
                await self._until_stopped(fleet, bus)
            if await end_processes(supervisor, self._force):
                self._exit_code = exits.INTERRUPTED

    async def _until_stopped(self, fleet: Fleet, bus: Bus) -> None:
        """Keep the fleet until it is to end. Raises what keeps it from going on."""
        tasks = [
            asyncio.create_task(fleet.run(), name="fleet"),
            asyncio.create_task(stopped_or_closed(self._stop, bus), name="stop"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _told(self, servers: tuple[str, ...], fleet: Fleet) -> AsyncIterator[None]:
        """Leave for other commands where this fleet is."""
        place = FleetPlace(
            cluster=self._cluster,
            instance=fleet.instance,
            nats=",".join(servers),
            pid=os.getpid(),
            file=str(self._file.path),
        )
        place.write(self._options.place)
        self._console.say(f"cluster   {self._cluster}, of {self._options.file}")
        self._console.say(f"NATS      {redact(', '.join(servers))}")
        self._console.say("ready: krt model ls   (Ctrl-C stops)")
        try:
            yield
        finally:
            (self._folder / FLEET_FILE).unlink(missing_ok=True)

    # --- NATS ---

    @asynccontextmanager
    async def _nats(self) -> AsyncIterator[tuple[str, ...]]:
        """Yield the addresses: what was given, the server of a `krt run` of this folder, or one of our own."""
        given = self._options.nats or nearest_server(self._options.place)
        if given:
            yield tuple(given.split(","))
            return
        async with embedded_nats(self._options.place / FOLDER / "nats", port=self._options.port) as server:
            keeping = asyncio.create_task(keep_running(server), name="nats")
            try:
                yield (server.url,)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)

    def _on_signal(self) -> None:
        """The first signal stops in order, the second by force."""
        if self._stop.is_set():
            self._force.set()
        else:
            self._console.say("stopping; Ctrl-C again ends it by force")
            self._stop.set()
