"""A driver seen from outside: its record in the presence bucket, and the requests that it answers.

    driver ── DriverDesk ──▶ presence `driver.<stream>.<pid>`, subjects `driver.<stream>.<pid>.<action>`
                                                              ▲
    any machine ── Drivers ── list, parameters, stop ─────────┘

An answer is JSON: {"result": …}, or {"error": text, "kind": class of the error}.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.bus.presence import EXPIRY_S, Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import Clock
from runtime.drivers.base import DriverState
from runtime.drivers.runner import DriverRunner
from runtime.errors import DriverError, DriverNotFoundError, InvalidParametersError, NoRespondersError
from runtime.spec import names

log = logging.getLogger(__name__)

GET_PARAMETERS = "parameters.get"
SET_PARAMETERS = "parameters.set"
SERVICES = "services"
STOP = "stop"
ACTIONS = (GET_PARAMETERS, SET_PARAMETERS, SERVICES, STOP)

# Seconds for an answer; a stop may take its driver's own time in addition.
ANSWER_S = 5.0
# Characters of a traceback in the record, from its end: records are written every two seconds.
TRACEBACK_CHARACTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRecord:
    """One driver, as it told last. driver: its class. services: see `base.Service.describe`. host, os_pid: where.
    counters: totals since its start."""

    pid: str
    ref: str
    driver: str
    state: DriverState
    reason: str
    traceback: str
    services: list[dict[str, Any]]
    restarts: int
    stop_timeout_s: float
    host: str
    os_pid: int
    counters: Mapping[str, int]

    @classmethod
    def of(cls, record: ServiceRecord) -> Self:
        """Read it from the presence record of a driver."""
        told = record.metadata
        return cls(
            pid=record.instance,
            ref=record.name,
            driver=told.get("driver", ""),
            state=DriverState(told.get("state", DriverState.STARTING)),
            reason=told.get("reason", ""),
            traceback=told.get("traceback", ""),
            services=list(told.get("services", ())),
            restarts=told.get("restarts", 0),
            stop_timeout_s=told.get("stop_timeout_s", 0.0),
            host=record.host,
            os_pid=record.pid,
            counters=record.counters,
        )


def new_pid() -> str:
    """Return the opaque id of a new driver process."""
    return secrets.token_hex(4)


class DriverDesk:
    """Shows a driver to others and answers their requests, inside an `async with` block."""

    def __init__(
        self,
        runner: DriverRunner,
        bus: Bus,
        stream: str,
        clock: Clock,
        *,
        pid: str,
        driver: str,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare. driver: its class, for the list. on_stop: called after a request has stopped the driver."""
        self._runner = runner
        self._bus = bus
        self._stream = stream
        self._pid = pid
        self._driver = driver
        self._on_stop = on_stop
        self._base = ServiceRecord.of_this_process(names.DRIVER, runner.ref)
        self._heartbeat = Heartbeat(
            bus, names.PRESENCE_BUCKET, names.presence_key(names.DRIVER, stream, pid), self._record, clock
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._bus.subscribe(
            names.driver_subject(self._stream, self._pid, ">"), self._on_request
        )
        await self._heartbeat.__aenter__()
        self._runner.on_change = self._heartbeat.beat_soon
        return self

    async def __aexit__(self, *_: object) -> None:
        self._runner.on_change = lambda: None
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._heartbeat.__aexit__()

    def _record(self) -> ServiceRecord:
        runner = self._runner
        told = {
            "driver": self._driver,
            "state": runner.state,
            "reason": runner.reason,
            "traceback": runner.traceback[-TRACEBACK_CHARACTERS:],
            "services": [service.describe() for service in runner.services],
            "restarts": runner.restarts,
            "stop_timeout_s": runner.stop_timeout_s,
        }
        endpoints = tuple(names.driver_subject(self._stream, self._pid, action) for action in ACTIONS)
        return replace(self._base, instance=self._pid, endpoints=endpoints, counters=runner.counters, metadata=told)

    def _on_request(self, request: CoreMessage) -> None:
        action = request.subject.removeprefix(names.driver_subject(self._stream, self._pid, ""))
        if action == STOP:
            task = asyncio.create_task(self._stop(request), name=f"stop of driver {self._runner.ref}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        self._reply(request, self._answer(action, request.data))

    def _answer(self, action: str, data: bytes) -> bytes:
        try:
            return orjson.dumps({"result": self._do(action, data)})
        except DriverError as error:
            return orjson.dumps({"error": str(error), "kind": type(error).__name__})
        except Exception as error:  # the driver's own code, on behalf of somebody far away
            log.exception("%s of driver %s has failed", action, self._runner.ref, extra={"action": "driver-request"})
            return orjson.dumps({"error": repr(error), "kind": DriverError.__name__})

    def _do(self, action: str, data: bytes) -> Any:
        if action == GET_PARAMETERS:
            return self._runner.get_parameters()
        if action == SET_PARAMETERS:
            return self._runner.set_parameters(_mapping(data))
        if action == SERVICES:
            return [service.describe() for service in self._runner.services]
        raise DriverError(f'a driver does not answer to "{action}"; it does to {", ".join(ACTIONS)}')

    async def _stop(self, request: CoreMessage) -> None:
        await self._runner.stop()
        self._reply(request, orjson.dumps({"result": self._runner.state}))
        self._on_stop()

    def _reply(self, request: CoreMessage, body: bytes) -> None:
        if request.reply:
            self._bus.send(request.reply, body)


class Drivers:
    """The drivers of one workflow, wherever they run. To be used on the loop of the bus; `records` from any thread."""

    def __init__(self, bus: Bus, stream: str, present: PresenceSet) -> None:
        self.stream = stream
        self._bus = bus
        self._present = present
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, bus: Bus, stream: str, clock: Clock) -> Self:
        """Return them with everybody who is there. Raises BusError."""
        opened: list[Self] = []

        def on_change(*_: object) -> None:
            if opened:
                opened[0]._note_change()

        keys = names.presence_key(names.DRIVER, stream, ">")
        present = await PresenceSet.open(bus, names.PRESENCE_BUCKET, keys, clock, on_change=on_change)
        opened.append(cls(bus, stream, present))
        return opened[0]

    async def close(self) -> None:
        await self._present.close()

    def records(self) -> list[DriverRecord]:
        """Return every driver that is there, by ref."""
        found = [DriverRecord.of(record) for record in list(self._present.records.values())]
        return sorted(found, key=lambda record: (record.ref, record.pid))

    def find(self, ref: str) -> DriverRecord:
        """Return the driver of this ref or pid. Raises DriverNotFoundError."""
        records = self.records()
        for record in records:
            if ref in (record.pid, record.ref):
                return record
        known = ", ".join(f"{record.ref} ({record.pid})" for record in records)
        raise DriverNotFoundError(f'there is no driver "{ref}" on {self.stream}; there are: {known or "none"}')

    async def wait_until(self, condition: Callable[[list[DriverRecord]], bool]) -> None:
        """Return as soon as the condition holds; it is asked after every change. Set a time limit around it."""
        while not condition(self.records()):
            await self._changed.wait()

    async def get_parameters(self, pid: str) -> dict[str, Any]:
        """Raises DriverNotFoundError, BusUnavailableError."""
        values: dict[str, Any] = await self._ask(pid, GET_PARAMETERS, b"", ANSWER_S)
        return values

    async def set_parameters(self, pid: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set some parameters, return all. Raises InvalidParametersError, DriverNotFoundError, BusUnavailableError."""
        try:
            data = orjson.dumps(dict(values))
        except TypeError as error:
            raise InvalidParametersError(f"the parameters are no JSON: {error}") from error
        changed: dict[str, Any] = await self._ask(pid, SET_PARAMETERS, data, ANSWER_S)
        return changed

    async def stop(self, pid: str) -> None:
        """Stop a driver and wait until it is off the list. Raises DriverNotFoundError, BusUnavailableError."""
        record = self.find(pid)
        await self._ask(pid, STOP, b"", record.stop_timeout_s + ANSWER_S)
        await self._wait_until_gone(pid)

    async def discard(self, pid: str) -> None:
        """Take a driver off the list that cannot do so itself, because its process was killed. Raises BusError."""
        bucket = await self._bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
        await bucket.delete(names.presence_key(names.DRIVER, self.stream, pid))
        await self._wait_until_gone(pid)

    async def _wait_until_gone(self, pid: str) -> None:
        async with asyncio.timeout(EXPIRY_S + ANSWER_S):
            await self.wait_until(lambda records: all(each.pid != pid for each in records))

    async def _ask(self, pid: str, action: str, data: bytes, timeout_s: float) -> Any:
        try:
            answer = await self._bus.request(names.driver_subject(self.stream, pid, action), data, timeout_s=timeout_s)
        except NoRespondersError as error:
            raise DriverNotFoundError(f'no driver "{pid}" of {self.stream} answers; it has ended') from error
        told = orjson.loads(answer.data)
        if "error" in told:
            kind = InvalidParametersError if told["kind"] == InvalidParametersError.__name__ else DriverError
            raise kind(told["error"])
        return told["result"]

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def is_decided(pid: str, records: Sequence[DriverRecord]) -> bool:
    """Say whether a driver is listed, and has come so far that it runs or has ended."""
    return any(record.pid == pid and record.state is not DriverState.STARTING for record in records)


def _mapping(data: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(data)
    except ValueError as error:
        raise InvalidParametersError(f"the parameters are no JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidParametersError(f"the parameters are no JSON object, but {type(values).__name__}")
    return values
