"""Starts drivers on request, as children beside those that a supervisor has: in `krt run` and `krt driver serve`.

What `krt driver rm` stops by itself is seen here by the end of its process, which is then forgotten, so that its ref
can be used again. No other process is touched by any of this.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.deploy.drivers import driver_process, process_name
from runtime.deploy.process import Process, ReplicaStatus, State, describe_exit
from runtime.deploy.supervisor import Supervisor
from runtime.drivers import hosting
from runtime.drivers.base import DriverState
from runtime.drivers.control import DriverRecord, Drivers, new_pid
from runtime.errors import BusError, DriverError, DriverExistsError, DriverStartError
from runtime.settings import read_credentials_folder
from runtime.spec import names
from runtime.spec.driver import DEFAULT_STOP_TIMEOUT_S, DriverRequest, DriverSpec

log = logging.getLogger(__name__)

# Seconds from the start of a process until its driver is on the list, and from its end until it is off.
LIST_LIMIT_S = 10.0
# Seconds beyond a driver's own stop timeout until its process is killed.
KILL_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedWorkflow:
    """What the drivers of a host are told. folder: of the workflow. environment: see `driver_process`."""

    name: str
    stream: str
    output_subjects: tuple[str, ...]
    nats_servers: Sequence[str] = field(repr=False)
    folder: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)


def own_credentials(stream: str, process: str) -> dict[str, str]:
    """Return the variable with the credentials that `krt permissions` made for a process; {} where there are none."""
    folder = read_credentials_folder()
    if folder is None or not (own := folder / stream / process).is_dir():
        return {}
    return {"KRT_NATS_CREDENTIALS": str(own.absolute())}


class DriverHost:
    """Takes requests for drivers of one workflow, inside an `async with` block; the processes outlive it."""

    def __init__(self, workflow: HostedWorkflow, supervisor: Supervisor, bus: Bus, drivers: Drivers) -> None:
        self._workflow = workflow
        self._supervisor = supervisor
        self._bus = bus
        self._drivers = drivers
        # By ref. A ref is taken from the request on, so that two requests at once cannot both have it.
        self._hosted: dict[str, Process] = {}
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        add, remove = (names.driver_host_subject(self._workflow.stream, each) for each in (hosting.ADD, hosting.REMOVE))
        self._subscriptions = [
            await self._bus.subscribe(add, self._on_add, queue=names.DRIVER_HOST_QUEUE),
            await self._bus.subscribe(remove, self._on_remove),
        ]
        self._spawn(self._forget_ended(), "forget ended drivers")
        return self

    async def __aexit__(self, *_: object) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def processes(self) -> list[Process]:
        """The processes that were started here, which a new plan has to keep."""
        return list(self._hosted.values())

    async def add(self, request: DriverRequest) -> DriverRecord:
        """Start a driver; it runs, has finished or has failed when this returns.

        Raises DriverExistsError, DriverStartError.
        """
        ref = request.ref
        if ref in self._hosted or any(record.ref == ref for record in self._drivers.records()):
            raise DriverExistsError(f'there is a driver "{ref}" already; remove it, or choose another ref')
        pid = new_pid()
        self._hosted[ref] = process = self._process_of(request, pid)
        try:
            # Of a driver of the workflow file that was removed; its process has ended.
            await self._supervisor.remove(process.name)
            await self._supervisor.start([process], stage_timeout_s=hosting.START_LIMIT_S)
            self._check_alive(process)
            return await self._listed(pid)
        except BaseException:
            await self.remove(ref)
            raise

    async def remove(self, ref: str) -> None:
        """End the process of a driver that was added here, and take it off the list."""
        await self._end(ref)
        try:
            for record in self._drivers.records():
                if record.ref == ref:
                    await self._drivers.discard(record.pid)
        except (BusError, TimeoutError) as error:  # its record expires by itself
            log.warning("driver %s stays on the list for a while: %s", ref, error, extra={"action": "driver-removed"})

    def _process_of(self, request: DriverRequest, pid: str) -> Process:
        workflow = self._workflow
        spec = DriverSpec(
            **request.model_dump(),
            workflow=workflow.name,
            stream=workflow.stream,
            output_subjects=workflow.output_subjects,
            pid=pid,
        )
        return driver_process(
            spec,
            nats_servers=workflow.nats_servers,
            base_path=workflow.folder,
            environment={**workflow.environment, **own_credentials(workflow.stream, process_name(spec.ref))},
        )

    def _check_alive(self, process: Process) -> None:
        """Raise DriverStartError for a process that has ended instead of telling what became of its driver."""
        found = [status for status in self._supervisor.states() if status.process == process.name]
        if not any(status.state in (State.READY, State.FAILED) and status.pid is not None for status in found):
            exits = [describe_exit(status.last_exit) for status in found if status.last_exit is not None]
            how = f"ended with {exits[0]}" if exits else f"is not ready after {hosting.START_LIMIT_S:g} s"
            raise DriverStartError(f"the process of the driver, {process.name}, {how}; see the lines that it printed")

    async def _listed(self, pid: str) -> DriverRecord:
        def is_decided(records: Sequence[DriverRecord]) -> bool:
            return any(record.pid == pid and record.state is not DriverState.STARTING for record in records)

        async with asyncio.timeout(LIST_LIMIT_S):
            await self._drivers.wait_until(is_decided)
        return self._drivers.find(pid)

    async def _end(self, ref: str) -> None:
        if process := self._hosted.pop(ref, None):
            await self._supervisor.remove(process.name, grace_s=DEFAULT_STOP_TIMEOUT_S + KILL_MARGIN_S)

    async def _forget_ended(self) -> None:
        """Forget every process whose driver was stopped over NATS."""
        while True:
            await self._supervisor.wait_until(lambda states: bool(self._ended(states)))
            for ref in self._ended(self._supervisor.states()):
                await self._end(ref)

    def _ended(self, states: Sequence[ReplicaStatus]) -> list[str]:
        ended = {status.process for status in states if status.state is State.STOPPED}
        return [ref for ref, process in self._hosted.items() if process.name in ended]

    # --- requests ---

    def _on_add(self, request: CoreMessage) -> None:
        self._spawn(self._answer_add(request), "add a driver")

    def _on_remove(self, request: CoreMessage) -> None:
        ref = request.data.decode(errors="replace")
        # Where it is not, another host may have it, and that one's answer counts.
        if ref in self._hosted:
            self._reply(request, hosting.answer({}))
            self._spawn(self.remove(ref), f"remove driver {ref}")

    async def _add(self, data: bytes) -> dict[str, Any]:
        record = await self.add(hosting.read_request(data))
        return {"pid": record.pid, "state": record.state, "reason": record.reason}

    async def _answer_add(self, request: CoreMessage) -> None:
        try:
            body = hosting.answer(await self._add(request.data))
        except DriverError as error:
            body = hosting.refusal(error)
        except Exception as error:  # on behalf of somebody far away, who has to hear of it
            log.exception("a request for a driver has failed", extra={"action": "driver-request"})
            body = hosting.refusal(error)
        self._reply(request, body)

    def _reply(self, request: CoreMessage, body: bytes) -> None:
        if request.reply:
            self._bus.send(request.reply, body)

    def _spawn(self, work: Any, what: str) -> None:
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
