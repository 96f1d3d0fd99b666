"""Driver processes: the handle on one, and what runs in it. Start here after `base.py`.

| want | take |
|---|---|
| a driver in a test | `async with hosted(Driver) as driver:` of test/support/drivers.py |
| one driver inside this process | `runner.DriverRunner`: its life; `control.DriverDesk`: to be seen and asked |
| a driver in a process of its own | `python -m runtime driver`, which is `run_driver` here |
| the drivers of a workflow, from anywhere | `control.Drivers`, and a `PipelineDriverProcess` for each |
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import pydantic

from runtime import log as logs
from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.client import DEFAULT_TIMEOUT_S
from runtime.clock import Clock, SystemClock
from runtime.drivers.base import ENDED, DriverParameters, DriverState
from runtime.drivers.control import DriverDesk, DriverRecord, Drivers, new_pid
from runtime.drivers.inference import WorkflowView
from runtime.drivers.load import make_driver
from runtime.drivers.loop_thread import LoopThread
from runtime.drivers.parameters import ParameterValues, plain
from runtime.drivers.runner import DriverRunner, DriverTerms
from runtime.errors import BusClosedError, DriverNotFoundError, DriverStartError, SettingsError
from runtime.settings import DriverSettings
from runtime.spec.driver import LOOPBACK, DriverSpec
from runtime.wire import MAX_CLAIM_BYTES

log = logging.getLogger(__name__)

# Seconds that a handle waits for a service which its driver has not opened yet.
SERVICE_WAIT_S = 5.0


class PipelineDriverProcess:
    """Handle on a driver, wherever it runs. Two handles of one driver are equal. Usable from every thread.

    A method that asks the driver has a form with an `a` before it, to be awaited on any loop.
    """

    def __init__(
        self, record: DriverRecord, drivers: Drivers, thread: LoopThread, remove: Callable[[str], Awaitable[None]]
    ) -> None:
        """Made by an InferenceProcess. remove: stops the driver of a pid; awaited on the thread's loop."""
        self._record = record
        self._drivers = drivers
        self._thread = thread
        self._remove = remove

    def __repr__(self) -> str:
        return f"<PipelineDriverProcess {self.ref} {self.pid} {self.state}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineDriverProcess) and self.pid == other.pid

    def __hash__(self) -> int:
        return hash(self.pid)

    @property
    def pid(self) -> str:
        """Opaque id of this driver process; it stays when the process is restarted after a crash."""
        return self._record.pid

    @property
    def ref(self) -> str:
        return self._record.ref

    @property
    def state(self) -> DriverState:
        """What the driver told last; STOPPED once it is gone."""
        record = self._look()
        return record.state if record is not None else DriverState.STOPPED

    @property
    def record(self) -> DriverRecord:
        """Everything that the driver told last: class, reason of a failure, traceback, host."""
        return self._look() or self._record

    def list_services(self) -> list[dict[str, Any]]:
        """Return what can be reached now, each with name, protocol, address, port and taggedAddresses."""
        record = self._look()
        return record.services if record is not None else []

    def get_service(self, name: str) -> dict[str, Any]:
        """Return one service, waiting `SERVICE_WAIT_S` at most for a driver that has not opened it yet.

        Raises DriverNotFoundError when it does not offer the service now.
        """
        return self._service(name) or self._thread.call(self._await_service(name))

    async def aget_service(self, name: str) -> dict[str, Any]:
        return await self._thread.acall(self._await_service(name))

    def get_parameters(self) -> ParameterValues:
        """Return the parameters that hold now. Raises DriverNotFoundError, BusUnavailableError."""
        return self._thread.call(self._get_parameters())

    async def aget_parameters(self) -> ParameterValues:
        return await self._thread.acall(self._get_parameters())

    def set_parameters(self, parameters: "ParameterValues | DriverParameters | Mapping[str, Any]") -> None:
        """Set parameters: what `get_parameters` gave, changed; or only some of them, as a mapping.

        Raises InvalidParametersError, and the old ones stay; DriverNotFoundError; BusUnavailableError.
        """
        self._thread.call(self._set_parameters(parameters))

    async def aset_parameters(self, parameters: "ParameterValues | DriverParameters | Mapping[str, Any]") -> None:
        await self._thread.acall(self._set_parameters(parameters))

    def stop(self) -> None:
        """End the driver and take it off the list. Raises DriverNotFoundError when it is gone already."""
        self._thread.call(self._stop())

    async def astop(self) -> None:
        await self._thread.acall(self._stop())

    def _service(self, name: str) -> dict[str, Any] | None:
        return next((service for service in self.list_services() if service["name"] == name), None)

    async def _await_service(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SERVICE_WAIT_S):
                await self._drivers.wait_until(lambda _: self._service(name) is not None or self.state in ENDED)
        if (service := self._service(name)) is not None:
            return service
        known = ", ".join(service["name"] for service in self.list_services()) or "none"
        raise DriverNotFoundError(f'driver {self.ref} ({self.state}) has no service "{name}" now; it has {known}')

    async def _get_parameters(self) -> ParameterValues:
        return ParameterValues(await self._drivers.get_parameters(self.pid))

    async def _set_parameters(self, parameters: "ParameterValues | DriverParameters | Mapping[str, Any]") -> None:
        await self._drivers.set_parameters(self.pid, plain(parameters))

    async def _stop(self) -> None:
        await self._remove(self.pid)

    def _look(self) -> DriverRecord | None:
        """Return what the driver told last, None once it is gone."""
        try:
            self._record = self._drivers.find(self.pid)
        except DriverNotFoundError:
            return None
        return self._record


# --- inside the process ---


async def run_driver(settings: DriverSettings, stop: asyncio.Event) -> None:
    """Run one driver until `stop` is set or somebody stops it; a driver that has failed stays listed until then.

    Raises SettingsError, BusUnavailableError, BusClosedError.
    """
    spec = read_driver_spec(settings.spec)
    if settings.base_path is not None:
        # Drivers of a workflow lie beside its handlers, and so do the files that they are told of.
        sys.path.insert(0, str(settings.base_path))
        os.chdir(settings.base_path)
    bus = await NatsBus.of(settings.nats, f"driver {spec.ref} of {spec.stream}")
    try:
        await _run_on(bus, spec, settings, stop)
    finally:
        await bus.close()


def read_driver_spec(text: str) -> DriverSpec:
    """Return the spec of KRT_DRIVER_SPEC. Raises SettingsError with every fault."""
    try:
        return DriverSpec.model_validate_json(text)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'its start'}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError([f"the 'KRT_DRIVER_SPEC' env var is wrong at {fault}" for fault in faults]) from error


async def _run_on(bus: Bus, spec: DriverSpec, settings: DriverSettings, stop: asyncio.Event) -> None:
    clock = SystemClock()
    runner = runner_of(spec, bus, clock, advertise=settings.advertise_address, max_claim_bytes=settings.max_claim_bytes)
    desk = DriverDesk(runner, bus, spec.stream, clock, pid=spec.pid or new_pid(), driver=spec.driver, on_stop=stop.set)
    async with desk:
        closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        starting = asyncio.create_task(_start(runner, settings.ready_fd), name="start")
        try:
            await asyncio.wait([closed, stopped], return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                raise BusClosedError("NATS has closed the connection for good")
        finally:
            for task in (closed, stopped, starting):
                task.cancel()
            await asyncio.gather(closed, stopped, starting, return_exceptions=True)
            await runner.stop()


async def _start(runner: DriverRunner, ready_fd: int | None) -> None:
    try:
        await runner.start()
    except DriverStartError:  # told by its state, and in the log
        logs.tell_failed(ready_fd)
        return
    logs.tell_ready(ready_fd)
    log.info("ready", extra={"action": "ready"})


def runner_of(
    spec: DriverSpec, bus: Bus, clock: Clock, *, advertise: str = "", max_claim_bytes: int = MAX_CLAIM_BYTES
) -> DriverRunner:
    """Return the runner of a driver process.

    advertise: the address that others are told, "" for this host's. max_claim_bytes: of one request or answer.
    """
    view = WorkflowView(
        name=spec.workflow,
        stream=spec.stream,
        output_subjects=spec.output_subjects,
        timeout_s=spec.timeout_s or DEFAULT_TIMEOUT_S,
        max_claim_bytes=max_claim_bytes,
    )
    terms = DriverTerms(
        ports=spec.ports,
        listen=spec.listen,
        address=advertise or _address_of(spec.listen),
        stop_timeout_s=spec.stop_timeout_s,
    )
    return DriverRunner(spec.ref, partial(make_driver, spec), bus, view, clock, terms=terms)


def _address_of(listen: str) -> str:
    """Return where others reach what listens there: nobody else reaches the loopback by the host's name."""
    return socket.gethostname() if listen in ("0.0.0.0", "::") else listen or LOOPBACK
