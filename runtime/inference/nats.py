"""`init("nats")`: the processes of a workflow and its drivers as children of this one, or one that is deployed."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError

from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.bus.presence import PresenceSet
from runtime.clock import SystemClock
from runtime.deploy.drivers import DRIVER_STAGE, driver_process, output_subjects, process_name
from runtime.deploy.plan import Target, handler_versions, plan
from runtime.deploy.process import LinePrinter, Process, ReplicaStatus, State, describe_exit
from runtime.deploy.supervisor import Supervisor
from runtime.deploy.wiring import stream_of
from runtime.drivers.base import DriverState
from runtime.drivers.control import DriverRecord, Drivers, is_decided, new_pid
from runtime.drivers.inference import WorkflowView
from runtime.drivers.load import check_callable, importable_name
from runtime.errors import ConfigError, DriverStartError, WorkflowStartError
from runtime.spec import names
from runtime.spec.driver import DEFAULT_STOP_TIMEOUT_S, DriverSpec
from runtime.spec.model import Workflow

T = TypeVar("T")

# Seconds that the processes of a workflow, or of a driver, may take to start.
START_LIMIT_S = 60.0
# Seconds until a driver that says that it runs, or has failed, is taken for one that cannot be listed.
LISTED_LIMIT_S = 5.0
# Seconds beyond a driver's own stop timeout until its process is killed.
KILL_MARGIN_S = 2.0
# Variables of the children: what they print is shown, and of their log only what somebody should see.
LOG_LEVEL = "WARN"
DATA_FILE = "data.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workflow is to run.

    servers: of NATS. credentials: folder, as KRT_NATS_CREDENTIALS. store: folder for what the workflow saves.
    """

    servers: tuple[str, ...] = field(repr=False)
    credentials: Path | None
    runtime_id: str
    store: Path


class NatsHost:
    """See `host.Host`. A driver is a child process of this one."""

    def __init__(self, workflow: Workflow | str, place: Place, *, version: str = "") -> None:
        """Prepare. workflow: one to start, or the name of one that is deployed; then its version, if it has several."""
        self._workflow = workflow
        self._version = version
        self._place = place
        self._clock = SystemClock()
        self._children = Children()
        # Pid -> name of the process, of the drivers that are children of this process.
        self._own: dict[str, str] = {}
        self._file_drivers: list[Process] = []
        self._bus: NatsBus | None = None
        self._drivers: Drivers | None = None
        self._view: WorkflowView | None = None

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "start first"
        return self._bus

    @property
    def drivers(self) -> Drivers:
        assert self._drivers is not None, "start first"
        return self._drivers

    @property
    def view(self) -> WorkflowView:
        assert self._view is not None, "start first"
        return self._view

    async def start(self) -> None:
        place = self._place
        self._bus = await NatsBus.connect(list(place.servers), name="inference", credentials=place.credentials)
        try:
            if isinstance(self._workflow, str):
                self._view = await deployed(self._bus, place.runtime_id, self._workflow, self._version)
            else:
                self._view = await self._deploy(self._workflow)
            self._drivers = await Drivers.open(self._bus, self._view.stream, self._clock)
            await self._start_file_drivers()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._children.stop()
        for pid in self._own:
            await self._forget(pid)
        if self._drivers is not None:
            await self._drivers.close()
        if self._bus is not None:
            await self._bus.close()

    async def add_driver(
        self, ref: str, make: Callable[..., object], args: Sequence[Any], arguments: Mapping[str, Any]
    ) -> str:
        check_callable(make)
        pid = new_pid()
        spec = DriverSpec(
            ref=ref,
            driver=importable_name(make),
            workflow=self.view.name,
            stream=self.view.stream,
            output_subjects=self.view.output_subjects,
            pid=pid,
            args=tuple(args),
            arguments=dict(arguments),
        )
        process = self._process_of(spec)
        # One of this name that ended by itself, or that somebody else has removed.
        await self._children.remove(process.name, grace_s=0.0)
        self._own = {pid: name for pid, name in self._own.items() if name != process.name} | {pid: process.name}
        try:
            await self._start_driver(process, pid)
        except BaseException:
            await self.remove_driver(pid)
            raise
        return pid

    async def remove_driver(self, pid: str) -> None:
        if pid not in self._own:
            await self.drivers.stop(pid)
            return
        await self._children.remove(self._own.pop(pid), grace_s=DEFAULT_STOP_TIMEOUT_S + KILL_MARGIN_S)
        await self._forget(pid)

    # --- workflow ---

    async def _deploy(self, workflow: Workflow) -> WorkflowView:
        """Start the processes of the workflow, and wait until all of them work."""
        place = self._place
        place.store.mkdir(parents=True, exist_ok=True)
        data = f"sqlite:///{place.store.absolute() / DATA_FILE}"
        stream = stream_of(workflow, place.runtime_id)
        target = Target(
            nats_servers=place.servers,
            mongo_uri=data,
            influx_uri=data,
            base_path=str(workflow.folder.absolute()),
            runtime_id=place.runtime_id,
            # A shared server has other workflows on it, whose writers have other files.
            writer_subject=names.writer_subject(stream),
            log_level=LOG_LEVEL,
            handler_versions=handler_versions(workflow),
            environment=os.environ,
        )
        planned = plan(workflow, target)
        await self._children.run([process for process in planned if process.stage < DRIVER_STAGE])
        self._file_drivers = [process for process in planned if process.stage == DRIVER_STAGE]
        return WorkflowView(name=workflow.name, stream=stream, output_subjects=output_subjects(workflow, stream))

    # --- drivers ---

    def _process_of(self, spec: DriverSpec) -> Process:
        """Return the driver's process; it finds the modules that this process finds."""
        credentials = self._place.credentials
        environment = {
            "KRT_LOG_LEVEL": LOG_LEVEL,
            "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
            **({"KRT_NATS_CREDENTIALS": str(credentials)} if credentials else {}),
        }
        try:
            return driver_process(spec, nats_servers=self._place.servers, environment=environment)
        except PydanticSerializationError as error:
            raise DriverStartError(f"the arguments of driver {spec.ref} have to be JSON: {error}") from error

    async def _start_file_drivers(self) -> None:
        """Start the drivers of the workflow file; one that cannot start is listed with its reason, and harms nobody."""
        wanted = {process.name for process in self._file_drivers}

        def all_decided(records: list[DriverRecord]) -> bool:
            decided = {process_name(record.ref) for record in records if record.state is not DriverState.STARTING}
            return wanted <= decided

        if self._file_drivers:
            await self._first_of(self._children.begin(self._file_drivers), all_decided)
            # A driver tells its supervisor at once, and is listed a moment later; one whose process has ended never is.
            wanted &= self._children.telling()
            await self._first_of(self._clock.sleep(LISTED_LIMIT_S), all_decided)

    async def _start_driver(self, process: Process, pid: str) -> None:
        """Start the process, and return once its driver runs or has ended. Raises DriverStartError."""
        ended = await self._first_of(self._children.run_to_end(process), partial(is_decided, pid))
        if ended is not None:
            raise DriverStartError(f"the process of the driver, {ended}; see the lines that it printed")

    async def _first_of(
        self, work: Coroutine[Any, Any, T], condition: Callable[[list[DriverRecord]], bool]
    ) -> T | None:
        """Return what the work does, or None if the drivers meet the condition before; the work is then cancelled."""
        working = asyncio.create_task(work, name="start of drivers")
        told = asyncio.create_task(self.drivers.wait_until(condition), name="drivers told")
        try:
            await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
            return None if told.done() else working.result()
        finally:
            told.cancel()
            working.cancel()
            await asyncio.gather(told, working, return_exceptions=True)

    async def _forget(self, pid: str) -> None:
        """Take a driver off the list, whose process may have been killed, and wait until it is seen to be gone."""
        if self._drivers is None:
            return
        await self._drivers.discard(pid)


class Children:
    """The processes that this one has started."""

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None
        self._end = asyncio.Event()
        self._living: asyncio.Task[None] | None = None

    async def run(self, processes: Sequence[Process]) -> None:
        """Start processes, and wait until all of them work. Raises WorkflowStartError."""
        supervisor = await self._started()
        await supervisor.start(processes, stage_timeout_s=START_LIMIT_S)
        idle = [_describe(state) for state in supervisor.states() if not state.works]
        if idle:
            raise WorkflowStartError(f"the workflow cannot start: {'; '.join(idle)}; see the lines that they printed")

    async def begin(self, processes: Sequence[Process]) -> None:
        """Start processes, and return once each works or has ended once, or after START_LIMIT_S."""
        await (await self._started()).start(processes, stage_timeout_s=START_LIMIT_S)

    def telling(self) -> set[str]:
        """Return the processes that live and have said that they work, or that they cannot."""
        states = self._supervisor.states() if self._supervisor is not None else []
        return {state.process for state in states if state.pid is not None and state.state is not State.STARTING}

    async def run_to_end(self, process: Process) -> str:
        """Start a process, and return how it ended when it does so for the first time, or that it does not get ready.

        Cancelling leaves it running.
        """
        supervisor = await self._started()
        await self.begin([process])

        def is_over(states: list[ReplicaStatus]) -> bool:
            return any(each.process == process.name and _has_failed(each) for each in states)

        await supervisor.wait_until(is_over)
        return next(_describe(each) for each in supervisor.states() if each.process == process.name)

    async def remove(self, name: str, *, grace_s: float) -> None:
        if self._supervisor is not None:
            await self._supervisor.remove(name, grace_s=grace_s)

    async def stop(self) -> None:
        """End all of them in order. Repeating it is fine."""
        self._end.set()
        if self._living is not None:
            await self._living

    async def _started(self) -> Supervisor:
        """Return the supervisor. It is entered and left by one task, which whoever calls here cannot be."""
        if self._supervisor is None:
            ready: asyncio.Future[Supervisor] = asyncio.get_running_loop().create_future()
            self._living = asyncio.create_task(self._live(ready), name="supervisor")
            self._supervisor = await ready
        return self._supervisor

    async def _live(self, ready: "asyncio.Future[Supervisor]") -> None:
        async with Supervisor(on_line=LinePrinter(sys.stdout, [], colour=False)) as supervisor:
            ready.set_result(supervisor)
            await self._end.wait()


async def deployed(bus: Bus, runtime_id: str, workflow: str, version: str) -> WorkflowView:
    """Return the deployed workflow of this name; version: "" where only one is.

    Raises ConfigError naming those that there are.
    """
    managers = await PresenceSet.open(bus, names.PRESENCE_BUCKET, names.presence_key(names.MANAGER, ">"), SystemClock())
    await managers.close()
    streams = sorted({key.split(".")[1] for key in managers.records})
    found = [stream for stream in streams if _is_stream_of(stream, runtime_id, workflow, version)]
    if len(found) != 1:
        what = f'{"more than one" if found else "no"} workflow "{workflow}" of runtime "{runtime_id}" is deployed'
        raise ConfigError(f"{what}; there are: {', '.join(streams) or 'none'}")
    return WorkflowView(name=workflow, stream=found[0])


def _is_stream_of(stream: str, runtime_id: str, workflow: str, version: str) -> bool:
    runtime, of_version, name = stream.split("_")
    return (runtime, name) == (runtime_id, workflow) and version in ("", of_version)


def _has_failed(state: ReplicaStatus) -> bool:
    return state.last_exit is not None or state.state is State.STARTING


def _describe(state: ReplicaStatus) -> str:
    how = "is not ready" if state.last_exit is None else f"ended with {describe_exit(state.last_exit)}"
    return f"{state.name} {how}"
