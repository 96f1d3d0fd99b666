"""The drivers of a local run: others are started on request, and what all of them offer is told as it opens."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.cli.driver_host import DriverHost, HostedWorkflow
from runtime.cli.driver_text import service_url
from runtime.clock import SystemClock
from runtime.deploy.process import Process
from runtime.deploy.supervisor import Supervisor
from runtime.drivers.control import DriverRecord, Drivers
from runtime.errors import AccessError, BusError, ConfigError
from runtime.settings import read_credentials_folder
from runtime.spec import names


class LocalDrivers:
    """Serves requests for drivers of one workflow for as long as `run` runs."""

    def __init__(self, workflow: HostedWorkflow, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self._workflow = workflow
        self._supervisor = supervisor
        self._say = say
        self._host: DriverHost | None = None

    @property
    def processes(self) -> list[Process]:
        """The processes that were started on request."""
        return self._host.processes if self._host is not None else []

    async def run(self) -> None:
        """Serve until cancelled. What keeps it off NATS is told, and then there are no requests to serve."""
        try:
            async with connected(self._workflow) as bus, watched(bus, self._workflow.stream) as drivers:
                async with DriverHost(self._workflow, self._supervisor, bus, drivers) as self._host:
                    await self._tell_services(drivers)
        except (AccessError, BusError, ConfigError) as error:
            self._say(f"no drivers can be added to this run: {error}")

    async def _tell_services(self, drivers: Drivers) -> None:
        told: list[str] = []
        while True:
            await drivers.wait_until(partial(_offer_other_than, told))
            now = _services(drivers.records())
            for service in now:
                if service not in told:
                    self._say(f"driver    {service}")
            told = now


@asynccontextmanager
async def connected(workflow: HostedWorkflow) -> AsyncIterator[Bus]:
    """Connect as the user that starts drivers, or as whoever the credentials are of.

    Raises AccessError, BusError, ConfigError.
    """
    folder = read_credentials_folder()
    if folder is not None and (own := folder / workflow.stream / names.DRIVER_HOST).is_dir():
        folder = own
    bus = await NatsBus.connect(
        list(workflow.nats_servers),
        name=f"drivers of {workflow.stream}",
        credentials=folder,
        inbox_prefix=names.inbox_prefix(workflow.stream, names.DRIVER_HOST),
    )
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def watched(bus: Bus, stream: str) -> AsyncIterator[Drivers]:
    """Yield the drivers of a workflow, wherever they run. Raises BusError."""
    drivers = await Drivers.open(bus, stream, SystemClock())
    try:
        yield drivers
    finally:
        await drivers.close()


def _offer_other_than(told: list[str], records: Sequence[DriverRecord]) -> bool:
    return _services(records) != told


def _services(records: Sequence[DriverRecord]) -> list[str]:
    return [f"{record.ref}: {service_url(service)}" for record in records for service in record.services]
