"""A model host: the process that keeps one model and answers coordinators. Start here; `run_model_host` is the process.

    coordinator ──model.<cluster>.<id>.<deployment>.call──▶ ModelHost ──ModelProcess──▶ child.py, the model
    coordinator ◀────────────── presence ────────────────── Heartbeat

This process never runs the model's code, so that health, presence and deadlines do not depend on it.
"""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import orjson
import pydantic

from runtime import log as logs
from runtime.bus.base import Bus, CoreMessage
from runtime.bus.nats import NatsBus
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.clock import Clock, SystemClock
from runtime.errors import BusClosedError, BusError, ConfigError, SettingsError
from runtime.models import wire
from runtime.models.host_calls import HostCalls
from runtime.models.model_process import ModelProcess, RefusalError
from runtime.models.wire import FailureCode, HostRecord, HostState, ServiceError
from runtime.settings import ModelHostSettings
from runtime.spec import names
from runtime.spec.model_host import QUARANTINED_EXIT_CODE, ModelHostSpec
from runtime.wire import MAX_CLAIM_BYTES

log = logging.getLogger(__name__)

# What becomes of a report, in its answer.
QUARANTINED, RESTARTED, IGNORED = "quarantined", "restarted", "ignored"
# Seconds that telling of a state may hold up the end of the process.
TELL_S = 1.0
# Characters of a refusal in a header.
MAX_REFUSAL = 500


async def run_model_host(settings: ModelHostSettings, stop: asyncio.Event) -> int:
    """Keep one model until `stop` is set, somebody stops it or it is quarantined; returns the exit code.

    Raises SettingsError, ConfigError, BusUnavailableError, BusClosedError.
    """
    spec = read_model_spec(settings.spec)
    bus = await NatsBus.of(settings.nats, f"model {spec.model_id} of {spec.cluster}")
    try:
        host = ModelHost(spec, bus, SystemClock(), max_claim_bytes=settings.max_claim_bytes, ready_fd=settings.ready_fd)
        return await host.run(stop)
    finally:
        await bus.close()


def read_model_spec(text: str) -> ModelHostSpec:
    """Return the spec of KRT_MODEL_SPEC, with absolute folders. Raises SettingsError with every fault."""
    try:
        spec = ModelHostSpec.model_validate_json(text)
    except pydantic.ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'its start'}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError([f"the 'KRT_MODEL_SPEC' env var is wrong at {fault}" for fault in faults]) from error
    for folder in (spec.code, spec.resources):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"the folder {folder} of model {spec.model_id} is not there")
    resources = spec.resources.absolute() if spec.resources is not None else None
    return spec.model_copy(update={"code": spec.code.absolute(), "resources": resources})


class ModelHost:
    """One start of a host: tells of its model, and answers what coordinators ask."""

    def __init__(
        self,
        spec: ModelHostSpec,
        bus: Bus,
        clock: Clock,
        *,
        max_claim_bytes: int = MAX_CLAIM_BYTES,
        ready_fd: int | None = None,
    ) -> None:
        self.deployment = spec.deployment or secrets.token_hex(4)
        self._spec = spec
        self._bus = bus
        self._clock = clock
        self._ready_fd = ready_fd
        self._name = spec.name or spec.model_id
        self._infos = dict(spec.infos)
        self._process = ModelProcess(spec, clock, self._on_change)
        self._calls = HostCalls(self._process, bus, clock, spec, max_claim_bytes=max_claim_bytes)
        self._base = ServiceRecord.of_this_process(names.MODEL, spec.model_id)
        key = names.presence_key(names.MODEL, spec.cluster, spec.model_id, self.deployment)
        self._heartbeat = Heartbeat(bus, names.PRESENCE_BUCKET, key, self._record, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        # Set once it shall end, with what it tells until then.
        self._ending = asyncio.Event()
        self._last_state: HostState | None = None
        self._last_reason = ""
        self._grace_s = spec.grace_s
        self._exit_code = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Keep the model until it is stopped in some way, and return the exit code. Raises BusClosedError, BusError."""
        subscription = await self._bus.subscribe(self._subject(">"), self._on_request)
        async with self._heartbeat:
            keeping = asyncio.create_task(self._process.run(), name="model process")
            try:
                await self._until_ending(stop, keeping)
            finally:
                await self._end(keeping)
                await subscription.unsubscribe()
        return self._exit_code

    async def _until_ending(self, stop: asyncio.Event, keeping: "asyncio.Task[None]") -> None:
        closed = asyncio.create_task(self._bus.wait_closed(), name="bus closed")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        ending = asyncio.create_task(self._ending.wait(), name="ending")
        keeping.add_done_callback(self._on_kept)
        try:
            await asyncio.wait([closed, stopped, ending], return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                raise BusClosedError("NATS has closed the connection for good")
        finally:
            for task in (closed, stopped, ending):
                task.cancel()
            await asyncio.gather(closed, stopped, ending, return_exceptions=True)

    async def _end(self, keeping: "asyncio.Task[None]") -> None:
        """Tell that nobody shall call any more, and only then end the model."""
        await self._tell(self._last_state or HostState.STOPPING)
        await self._process.close(self._grace_s)
        # The last call has its answer, or the error of a process that has ended.
        await asyncio.gather(keeping, *self._tasks, return_exceptions=True)
        if self._last_state is HostState.STOPPING:
            await self._tell(HostState.STOPPED)

    async def _tell(self, state: HostState) -> None:
        self._last_state = state
        try:
            async with asyncio.timeout(TELL_S):
                await self._heartbeat.beat()
        except (BusError, TimeoutError) as error:
            log.warning("nobody is told that the model is %s: %s", state, error, extra={"action": "presence"})

    def _on_kept(self, keeping: "asyncio.Task[None]") -> None:
        """The process of the model is not kept any more: it has failed for good, or something here has."""
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            log.error("the model is not kept any more", exc_info=error, extra={"action": "died"})
            self._exit_code = 1
            self._ending.set()

    def _on_change(self) -> None:
        if self._process.state is HostState.RUNNING:
            log.info("the model is running", extra={"action": "ready"})
            logs.tell_ready(self._take_ready_fd())
        elif self._process.state is HostState.FAILED:
            logs.tell_failed(self._take_ready_fd())
        self._heartbeat.beat_soon()

    def _take_ready_fd(self) -> int | None:
        """Return the pipe that is told once."""
        ready_fd, self._ready_fd = self._ready_fd, None
        return ready_fd

    def _record(self) -> ServiceRecord:
        process = self._process
        told = HostRecord(
            cluster=self._spec.cluster,
            model_id=self._spec.model_id,
            deployment=self.deployment,
            name=self._name,
            state=self._state,
            infos=self._infos,
            instance=process.instance,
            started_ms=self._base.started_ms,
            now_ms=self._clock.time_ns() // 1_000_000,
            host=self._base.host,
            pid=self._base.pid,
            restarts=process.restarts,
            reason=self._last_reason or process.reason,
        )
        endpoints = tuple(self._subject(action) for action in wire.ACTIONS)
        return replace(self._base, instance=self.deployment, endpoints=endpoints, metadata=told.metadata())

    @property
    def _state(self) -> HostState:
        return self._last_state or self._process.state

    def _subject(self, action: str) -> str:
        return names.model_subject(self._spec.cluster, self._spec.model_id, self.deployment, action)

    # --- requests ---

    def _on_request(self, request: CoreMessage) -> None:
        action = request.subject.removeprefix(self._subject(""))
        if action in (wire.SETUP, wire.CALL, wire.RESET):
            self._spawn(self._answer_call(action, request), f"{action} of model {self._spec.model_id}")
            return
        try:
            self._reply(request, orjson.dumps(self._do(action, request.data)))
        except RefusalError as refusal:
            self._refuse(request, refusal)

    def _do(self, action: str, data: bytes) -> dict[str, Any]:
        if action == wire.HEALTH:
            return self._health()
        if action == wire.REPORT:
            return self._take_report(_mapping(data))
        if action == wire.INFOS:
            return self._take_infos(_mapping(data))
        if action == wire.STOP:
            return self._take_stop(_mapping(data))
        known = ", ".join(wire.ACTIONS)
        raise RefusalError(ServiceError.INVALID, f'a model host does not answer to "{action}"; it does to {known}')

    def _health(self) -> dict[str, Any]:
        process = self._process
        return {
            "state": self._state,
            "instance": process.instance,
            "busy_for_ms": process.busy_for_ms,
            "child_alive": process.is_alive,
        }

    def _take_report(self, report: dict[str, Any]) -> dict[str, Any]:
        code, reason = str(report.get("failure_code", "")), str(report.get("failure_reason", ""))
        told = f"{code}: {reason}"
        if code not in set(FailureCode):
            log.warning("a report is ignored: %s", told, extra={"action": "report"})
            return {"accepted": False, "action": IGNORED}
        log.error("%s reports the model: %s", report.get("coordinator", "somebody"), told, extra={"action": "report"})
        if code not in wire.QUARANTINED:
            self._process.kill(told)
            return {"accepted": True, "action": RESTARTED}
        self._last_state, self._last_reason, self._exit_code = HostState.FAILED, told, QUARANTINED_EXIT_CODE
        self._ending.set()
        return {"accepted": True, "action": QUARANTINED}

    def _take_stop(self, told: dict[str, Any]) -> dict[str, Any]:
        grace_s = told.get("grace_s", self._grace_s)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or grace_s < 0:
            raise RefusalError(ServiceError.INVALID, f"grace_s is {grace_s!r}, and no number of seconds")
        self._grace_s = min(grace_s, self._spec.grace_s)
        log.info("the model is stopped on request", extra={"action": "stop"})
        self._ending.set()
        return {"accepted": True}

    def _take_infos(self, told: dict[str, Any]) -> dict[str, Any]:
        name, infos = told.get("name", self._name), told.get("infos", self._infos)
        if not isinstance(name, str) or not isinstance(infos, dict):
            raise RefusalError(ServiceError.INVALID, "infos are {name: text, infos: {…}}")
        self._name, self._infos = name, infos
        self._heartbeat.beat_soon()
        return {"accepted": True}

    async def _answer_call(self, action: str, request: CoreMessage) -> None:
        try:
            body = await self._calls.answer(action, request)
        except RefusalError as refusal:
            self._refuse(request, refusal)
            return
        if request.reply:
            self._bus.send(request.reply, body.data, headers=body.headers)

    def _refuse(self, request: CoreMessage, refusal: RefusalError) -> None:
        if request.reply:
            # A line break would end the header.
            text = " ".join(str(refusal).split())[:MAX_REFUSAL]
            headers = {wire.ERROR_CODE_HEADER: str(int(refusal.code)), wire.ERROR_HEADER: text}
            self._bus.send(request.reply, b"", headers=headers)

    def _reply(self, request: CoreMessage, data: bytes) -> None:
        if request.reply:
            self._bus.send(request.reply, data)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._on_answered)

    def _on_answered(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s has no answer", task.get_name(), exc_info=error, extra={"action": "request-failed"})


def _mapping(data: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(data or b"{}")
    except ValueError as error:
        raise RefusalError(ServiceError.INVALID, f"the request is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise RefusalError(ServiceError.INVALID, f"the request is no JSON object, but {type(values).__name__}")
    return values
