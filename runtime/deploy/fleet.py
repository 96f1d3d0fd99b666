"""Keeps the model hosts of a models file as the file wants them: what `krt model serve FILE` does.

    file, folders ─┐
    quarantine ────┼─▶ reconcile ─▶ Supervisor.update: hosts are started, replaced, stopped
    ended hosts ───┘            └─▶ quarantine, infos of running hosts, what the fleet tells of itself

Whatever happens only asks for `_reconcile`, which compares what is wanted with what is there, so that repeating it, or
missing something, does no harm. Hosts go on without NATS, and so does this.
"""

import asyncio
import logging
import operator
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import orjson

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.presence import Heartbeat, PresenceSet, ServiceRecord
from runtime.children import describe_exit
from runtime.clock import Clock
from runtime.deploy.fleet_file import FleetFile
from runtime.deploy.fleet_plan import FleetTarget, changes, host_processes, same_model, spec_of
from runtime.deploy.process import Process, ReplicaStatus, State
from runtime.deploy.supervisor import Supervisor
from runtime.errors import BusError, NoRespondersError
from runtime.models import wire
from runtime.models.listing import QUARANTINED, FleetModel
from runtime.models.quarantine import Quarantine, Quarantined
from runtime.spec import names
from runtime.spec.model_host import QUARANTINED_EXIT_CODE
from runtime.spec.models_file import RUNNING, DesiredModel

log = logging.getLogger(__name__)

# Action of a fleet: take over edits of the file and the folders, and start again what was stopped or given up.
APPLY = "apply"
# Seconds between two looks at the file.
LOOK_EVERY_S = 0.5
# Seconds until what NATS has kept from being done is tried again.
RETRY_S = 5.0
# Seconds that a host that is replaced or stopped has to end; its model has ten for the call that it works on.
HOST_GRACE_S = 15.0
# Seconds for a host to answer that it has taken over its new infos.
INFOS_TIMEOUT_S = 2.0
# A reason that nobody has told.
REPORTED = "a coordinator has reported it"


class Fleet:
    """The models of one file, as processes of a supervisor."""

    def __init__(self, file: FleetFile, supervisor: Supervisor, bus: Bus, target: FleetTarget, clock: Clock) -> None:
        self._file = file
        self._supervisor = supervisor
        self._bus = bus
        self._target = target
        self._clock = clock
        self._cluster = file.models_file.cluster
        self._service = ServiceRecord.of_this_process(names.FLEET, self._cluster)
        key = names.presence_key(names.FLEET, self._cluster, self.instance)
        self._heartbeat = Heartbeat(bus, names.PRESENCE_BUCKET, key, self._record, clock)
        self._quarantine: Quarantine | None = None
        # As it was read last, by model and digest.
        self._quarantined: dict[tuple[str, str], Quarantined] = {}
        # What is in force; hosts of ours as they told last, by model.
        self._processes: Sequence[Process] = ()
        self._hosts: dict[str, wire.HostRecord] = {}
        self._problems: Sequence[str] = ()
        self._due = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._requests: asyncio.Queue[CoreMessage] = asyncio.Queue()

    @property
    def instance(self) -> str:
        """Name this fleet's start: the last part of its subjects and of its presence key."""
        return self._service.instance

    async def run(self) -> None:
        """Keep the hosts until cancelled; ending their processes is the supervisor's. Raises BusError at its start."""
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._due.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_file(), name="models file")
                group.create_task(self._follow_states(), name="states of hosts")
                group.create_task(self._keep(), name="reconcile")
                group.create_task(self._answer_requests(), name="requests to the fleet")

    async def apply(self) -> dict[str, Any]:
        """Take over the file and the folders as they are now, and give every model that is down another try.

        Returns `changes` and `problems`, lines each; with problems everything stays as it is.
        """
        problems = await self._read_again()
        if not problems:
            await self._forget_ended()
        return {"changes": [] if problems else await self._reconcile(), "problems": list(problems)}

    async def _open(self, stack: AsyncExitStack) -> None:
        subject = names.fleet_subject(self._cluster, self.instance, APPLY)
        self._quarantine = await Quarantine.open(self._bus, self._cluster)
        watching = await self._quarantine.watch(lambda key, entry: self._due.set())
        stack.push_async_callback(watching.unsubscribe)
        keys = names.model_presence_keys(self._cluster)
        present = await PresenceSet.open(self._bus, names.PRESENCE_BUCKET, keys, self._clock, on_change=self._on_host)
        stack.push_async_callback(present.close)
        asked = await self._bus.subscribe(subject, self._requests.put_nowait)
        stack.push_async_callback(asked.unsubscribe)
        await stack.enter_async_context(self._heartbeat)

    # --- what asks for a reconciliation ---

    async def _follow_file(self) -> None:
        stamp = self._file.stamp()
        while True:
            await self._clock.sleep(LOOK_EVERY_S)
            now = await asyncio.to_thread(self._file.stamp)
            if now not in (stamp, None):
                await self._read_again()
                self._due.set()
                stamp = now

    async def _follow_states(self) -> None:
        while True:
            states = self._supervisor.states()
            if any(map(_is_reported, states)):
                self._due.set()
            self._heartbeat.beat_soon()
            await self._supervisor.wait_until(partial(operator.ne, states))

    def _on_host(self, key: str, record: ServiceRecord | None) -> None:
        if record is None or record.host != self._service.host:
            return
        try:
            host = wire.HostRecord.of(key, record)
        except ValueError as error:
            log.warning("key %s of the presence bucket is no host's: %s", key, error, extra={"action": "presence"})
            return
        if self._is_ours(host):
            self._hosts[host.model_id] = host
            if any(self._is_outdated(process) for process in self._processes if process.name == host.model_id):
                self._due.set()

    def _is_ours(self, host: wire.HostRecord) -> bool:
        """Say whether a host is a process of this fleet; its last words may be heard when it has ended."""
        known = self._hosts.get(host.model_id)
        running = [status.pid for status in self._supervisor.states() if status.process == host.model_id]
        return host.pid in running or (known is not None and known.pid == host.pid)

    async def _answer_requests(self) -> None:
        while True:
            request = await self._requests.get()
            answer = await self.apply()
            if request.reply:
                self._bus.send(request.reply, orjson.dumps(answer))

    # --- reconciliation ---

    async def _keep(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            await self._reconcile()

    async def _reconcile(self) -> list[str]:
        """Make the hosts what is wanted; returns what changes, a line for each model."""
        async with self._reconciling:
            await self._update_quarantine()
            wanted = host_processes(self._file.models_file, self._file.digests, self._quarantined, self._target)
            before, self._processes = self._processes, wanted
            told = changes(before, wanted)
            for line in told:
                log.info("%s", line, extra={"action": "fleet-changed"})
            running = {process.name: process for process in before}
            for process in wanted:
                if process.name in running and same_model(running[process.name], process):
                    self._supervisor.amend(process)
            await self._supervisor.update(wanted, grace_s=HOST_GRACE_S)
            for process in filter(self._is_outdated, wanted):
                await self._tell_infos(process)
            self._heartbeat.beat_soon()
            return told

    async def _update_quarantine(self) -> None:
        """Add the hosts that were reported, and read the rest; without NATS what was known holds on."""
        assert self._quarantine is not None
        found = {(entry.model_id, entry.digest): entry for entry in map(self._entry, self._reported())}
        try:
            for entry in found.values():
                await self._quarantine.add(entry)
                log.error(
                    "model %s is in quarantine: %s; correct it, or `krt model unquarantine %s`",
                    entry.model_id, entry.reason, entry.model_id,
                    extra={"action": "quarantined"},
                )  # fmt: skip
            self._quarantined = {(entry.model_id, entry.digest): entry for entry in await self._quarantine.all()}
        except BusError as error:
            log.warning("the quarantine cannot be reached: %s", error, extra={"action": "quarantine"})
            self._clock.call_later(RETRY_S, self._due.set)

    def _reported(self) -> list[Process]:
        reported = {status.process for status in self._supervisor.states() if _is_reported(status)}
        return [process for process in self._processes if process.name in reported]

    def _entry(self, process: Process) -> Quarantined:
        host = self._hosts.get(process.name)
        return Quarantined(
            model_id=process.name,
            digest=spec_of(process).digest,
            reason=(host.reason if host else "") or REPORTED,
            at_ms=self._clock.time_ns() // 1_000_000,
        )

    def _is_outdated(self, process: Process) -> bool:
        """Say whether the host of a process runs and tells another name, or other infos, than are wanted."""
        host, spec = self._hosts.get(process.name), spec_of(process)
        return host is not None and (host.name, dict(host.infos)) != (spec.name, spec.infos)

    async def _tell_infos(self, process: Process) -> None:
        host, spec = self._hosts[process.name], spec_of(process)
        subject = names.model_subject(self._cluster, host.model_id, host.deployment, wire.INFOS)
        body = orjson.dumps({"name": spec.name, "infos": spec.infos})
        try:
            await self._bus.request(subject, body, timeout_s=INFOS_TIMEOUT_S)
        except NoRespondersError:  # it has ended; the next start knows
            return
        except BusError as error:  # its next beat asks again
            log.warning("model %s keeps its old infos: %s", process.name, error, extra={"action": "infos"})
            return
        self._hosts[process.name] = replace(host, name=spec.name, infos=spec.infos)

    async def _read_again(self) -> Sequence[str]:
        self._problems = await asyncio.to_thread(self._file.read_again)
        for problem in self._problems:
            log.error("%s (what was started before goes on)", problem, extra={"action": "models-file"})
        self._heartbeat.beat_soon()
        return self._problems

    async def _forget_ended(self) -> None:
        """Forget the hosts that were stopped, or have used up their restarts."""
        for status in self._supervisor.states():
            if status.state in (State.STOPPED, State.FAILED) and not _is_reported(status):
                await self._supervisor.remove(status.process)
                self._processes = [process for process in self._processes if process.name != status.process]

    # --- what is told ---

    def _record(self) -> ServiceRecord:
        states = {status.process: status for status in self._supervisor.states()}
        models = {model.id: asdict(self._told(model, states.get(model.id))) for model in self._file.models_file.models}
        told = {"file": str(self._file.path), "models": models, "problem": "\n".join(self._problems)}
        return replace(self._service, metadata=told)

    def _told(self, model: DesiredModel, status: ReplicaStatus | None) -> FleetModel:
        entry = self._quarantined.get((model.id, self._file.digests[model.id]))
        if model.desired == RUNNING and entry is not None:
            return FleetModel(name=model.name, state=QUARANTINED, reason=entry.reason)
        if status is None:
            return FleetModel(name=model.name, state=State.STOPPED)
        ended = f"ended with {describe_exit(status.last_exit)}" if status.last_exit else ""
        return FleetModel(
            name=model.name, state=status.state, restarts=status.restarts, reason="" if status.works else ended
        )


def _is_reported(status: ReplicaStatus) -> bool:
    return status.state is State.FAILED and status.last_exit == QUARANTINED_EXIT_CODE
