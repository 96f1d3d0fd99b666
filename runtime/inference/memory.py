"""`init("debug")`: workflow and drivers in this process, on an in-memory bus."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from runtime.bus.base import Bus
from runtime.clock import SystemClock
from runtime.deploy.drivers import driver_spec, output_subjects
from runtime.drivers.base import WorkflowSchema
from runtime.drivers.control import DriverDesk, Drivers, is_decided, new_pid
from runtime.drivers.inference import WorkflowView
from runtime.drivers.load import check_callable, make_driver, name_of
from runtime.drivers.runner import DriverRunner, DriverTerms
from runtime.errors import DriverNotFoundError, DriverStartError
from runtime.spec.model import Workflow
from runtime.testing.deployment import MemoryDeployment


class MemoryHost:
    """See `host.Host`. A driver is a thread, or a task of the loop."""

    def __init__(self, workflow: Workflow, runtime_id: str) -> None:
        self._workflow = workflow
        self._clock = SystemClock()
        self._deployment = MemoryDeployment(workflow, runtime_id, self._clock)
        stream = self._deployment.stream
        self.view = WorkflowView(
            name=workflow.name,
            stream=stream,
            output_subjects=output_subjects(workflow, stream),
            find_schema=lambda: WorkflowSchema(**self._deployment.told_schemas()),
        )
        self._hosted: dict[str, tuple[DriverRunner, DriverDesk]] = {}
        self._drivers: Drivers | None = None
        self._managing: asyncio.Task[None] | None = None
        self._bus: Bus | None = None

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "start first"
        return self._bus

    @property
    def drivers(self) -> Drivers:
        assert self._drivers is not None, "start first"
        return self._drivers

    async def start(self) -> None:
        manager = await self._deployment.start()
        self._managing = asyncio.create_task(manager.run(), name="manager")
        self._bus = self._deployment.connect()
        self._drivers = await Drivers.open(self._bus, self.view.stream, self._clock)
        for driver in self._workflow.drivers:
            spec = driver_spec(driver, self._workflow, self.view.stream)
            terms = DriverTerms(ports=spec.ports, stop_timeout_s=spec.stop_timeout_s)
            await self._run(spec.pid or new_pid(), spec.ref, partial(make_driver, spec), spec.driver, terms)

    async def stop(self) -> None:
        for pid in list(self._hosted):
            await self.remove_driver(pid)
        if self._drivers is not None:
            await self._drivers.close()
        if self._managing is not None:
            self._managing.cancel()
            await asyncio.gather(self._managing, return_exceptions=True)
            await self._deployment.stop()

    async def add_driver(
        self, ref: str, make: Callable[..., object], args: Sequence[Any], arguments: Mapping[str, Any]
    ) -> str:
        check_callable(make)
        pid = new_pid()
        await self._run(pid, ref, partial(make, *args, **arguments), name_of(make), DriverTerms())
        return pid

    async def _run(self, pid: str, ref: str, make: Callable[[], object], driver: str, terms: DriverTerms) -> None:
        """Run a driver, and return once it is listed with what has become of its start."""
        runner = DriverRunner(ref, make, self.bus, self.view, self._clock, terms=terms)
        desk = DriverDesk(runner, self.bus, self.view.stream, self._clock, pid=pid, driver=driver)
        await desk.__aenter__()
        self._hosted[pid] = (runner, desk)
        with suppress(DriverStartError):  # told by its state
            await runner.start()
        await self.drivers.wait_until(partial(is_decided, pid))

    async def remove_driver(self, pid: str) -> None:
        if pid not in self._hosted:
            raise DriverNotFoundError(f'there is no driver "{pid}"')
        runner, desk = self._hosted.pop(pid)
        await runner.stop()
        await desk.__aexit__()
