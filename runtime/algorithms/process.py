"""A runner of algorithms from its settings to its end: discover, connect, join, serve, stop in order.

Join: write the presence key, read those of all others, yield or go on (`presence.py`), subscribe, tell that it serves.
A failure anywhere ends the process with a non-zero code, never as a live process that does nothing.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from runtime import log as logs
from runtime.algorithms.discover import Description, adapter_file, discover
from runtime.algorithms.executors import Executor, ProcessExecutor, ThreadExecutor
from runtime.algorithms.presence import Conflict, Offered, RunnerRecord, RunnerState, conflicts, shared
from runtime.algorithms.registry import Registry
from runtime.algorithms.service import AlgorithmService, ServiceTerms, schema_answer
from runtime.algorithms.signatures import first_difference, without_texts
from runtime.algorithms.wire import SCHEMA
from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.bus.presence import EXPIRY_S, Heartbeat, ServiceRecord
from runtime.clock import Clock, SystemClock
from runtime.errors import AdapterError, BusClosedError, BusError, BusUnavailableError
from runtime.settings import AlgorithmsSettings
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds that others have to withdraw what this runner replaces.
REPLACE_S = EXPIRY_S + 2.0
# Seconds for the schema of another runner, which only makes a message clearer.
SCHEMA_S = 2.0
# Characters of a documentation in the presence record, which is written every two seconds.
DOC_CHARACTERS = 200
# Seconds between two threads' turns while algorithms compute in threads: Python's 5 ms add up for the loop's thread,
# which has to win several turns for each answer.
SWITCH_INTERVAL_S = 0.0005


async def run_algorithms(settings: AlgorithmsSettings, stop: asyncio.Event) -> None:
    """Run one runner until `stop` is set. Raises AdapterError, AccessError, BusClosedError."""
    executor, algorithms = await open_executor(settings)
    try:
        bus = await _connected(settings, stop)
        if bus is None:
            return
        try:
            await _run_on(bus, Runner(bus, settings, algorithms, executor, SystemClock()), settings, stop)
        finally:
            await bus.close()
    finally:
        await executor.close()


async def open_executor(settings: AlgorithmsSettings) -> tuple[Executor, Sequence[Description]]:
    """Return what runs the adapter's functions, and what it offers. Raises AdapterError."""
    if settings.isolation == "process":
        workers = ProcessExecutor(settings.adapter, settings.environment)
        try:
            return workers, await workers.discover()
        except BaseException:
            await workers.close()
            raise
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    offer = discover(settings.adapter)
    threads = sum(each.concurrency or settings.concurrency for each in offer.descriptions)
    return ThreadExecutor(offer, threads), offer.descriptions


def runner_name(settings: AlgorithmsSettings) -> str:
    """Return the runner's name, by default that of the adapter's folder."""
    file = adapter_file(settings.adapter)
    folder = file.parent if file is not None else Path.cwd()
    return settings.runner or names.suggest_name(folder.name) or "runner"


class Runner:
    """One runner on a connection: joins the others, serves, and leaves."""

    def __init__(
        self,
        bus: Bus,
        settings: AlgorithmsSettings,
        algorithms: Sequence[Description],
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._clock = clock
        self._base = ServiceRecord.of_this_process(names.ALGORITHM, runner_name(settings))
        self._state = RunnerState.JOINING
        # 0 until the key has its first revision: until then it claims no name.
        self._born = 0
        terms = ServiceTerms(
            runner=self._base.name,
            instance=self._base.instance,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            max_claim_bytes=settings.max_claim_bytes,
        )
        self._service = AlgorithmService(bus, terms, algorithms, executor, clock)
        self._key = names.presence_key(names.ALGORITHM, self._base.name, self._base.instance)
        self._heartbeat = Heartbeat(bus, names.PRESENCE_BUCKET, self._key, self._told, clock)
        self._registry: Registry | None = None
        self._withdrawing: set[asyncio.Task[None]] = set()
        # Done when there is nothing left to serve; raises when another runner has won.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def record(self) -> RunnerRecord:
        """What others are told now."""
        claims = self._born and self._state is not RunnerState.DRAINING
        served = self._service.served if claims else {}
        return RunnerRecord(
            runner=self._base.name,
            instance=self._base.instance,
            state=self._state,
            born=self._born,
            replaces=self._settings.replace,
            algorithms={
                name: Offered(each.hash, each.version, each.doc[:DOC_CHARACTERS]) for name, each in served.items()
            },
        )

    async def start(self) -> None:
        """Join and serve. Raises AdapterError for a name that another runner has with another signature, BusError."""
        bucket = await self._bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=EXPIRY_S)
        self._born = await bucket.create(self._key, self._told().encode())
        # The names are told before those of others are read: of two that start at once, one at least sees the other.
        await self._heartbeat.beat()
        await self._heartbeat.__aenter__()
        self._registry = await Registry.open(self._bus, self._clock, on_change=self._on_change)
        await self._claim(self._registry)
        await self._service.start()
        self._state = RunnerState.SERVING
        await self._heartbeat.beat()
        await self._remember()
        for name, runner in shared(self.record, self._registry.runners()):
            log.info("runner %s serves %s, too: they share the calls", runner, name, extra={"action": "shared"})

    async def stop(self) -> None:
        """Leave: take nothing more, finish within the grace time. Callers see it as alive until it has finished."""
        self._state = RunnerState.DRAINING
        try:
            await self._heartbeat.beat()
        except BusError as error:
            log.debug("nobody hears that this runner stops: %s", error)
        await self._service.stop(self._settings.grace_s)
        for task in self._withdrawing:
            task.cancel()
        if self._registry is not None:
            await self._registry.close()
        await self._heartbeat.__aexit__()

    def _told(self) -> ServiceRecord:
        endpoints = tuple(names.algorithm_subject(name, ">") for name in self.record.algorithms)
        return replace(self._base, endpoints=endpoints, metadata=self.record.metadata())

    # --- other runners ---

    async def _claim(self, registry: Registry) -> None:
        """Return when no other runner serves one of the names with another signature. Raises AdapterError."""
        found = conflicts(self.record, registry.runners())
        if lost := [conflict for conflict in found if self.record.yields_to(conflict.other)]:
            raise await self._refusal(lost)
        for conflict in found:
            log.info("%s of runner %s is replaced", conflict.name, conflict.other.label, extra={"action": "replace"})

        def is_free() -> bool:
            others = conflicts(self.record, registry.runners())
            return not any(conflict.other.state is RunnerState.SERVING for conflict in others)

        try:
            async with asyncio.timeout(REPLACE_S):
                await registry.wait_until(is_free)
        except TimeoutError:
            raise await self._refusal(conflicts(self.record, registry.runners())) from None

    def _on_change(self) -> None:
        """Look at the others after every change; only what serves can lose a name here."""
        if self._registry is None or self._state is not RunnerState.SERVING:
            return
        found = conflicts(self.record, self._registry.runners())
        lost = [conflict for conflict in found if self.record.yields_to(conflict.other)]
        if replaced := {conflict.name for conflict in lost if conflict.other.replaces}:
            self._spawn(self._withdraw(sorted(replaced)))
        elif lost and not self._withdrawing:
            self._spawn(self._give_in(lost))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="withdraw")
        self._withdrawing.add(task)
        task.add_done_callback(self._withdrawing.discard)

    async def _withdraw(self, replaced: Sequence[str]) -> None:
        for name in replaced:
            log.warning("%s is served by another runner now, which replaces it", name, extra={"action": "replaced"})
            await self._service.withdraw(name)
        self._heartbeat.beat_soon()
        if not self._service.served and not self.ended.done():
            self.ended.set_result(None)

    async def _give_in(self, lost: Sequence[Conflict]) -> None:
        error = await self._refusal(lost)
        if not self.ended.done():
            self.ended.set_exception(error)

    async def _refusal(self, lost: Sequence[Conflict]) -> AdapterError:
        return AdapterError(
            [
                f'runner {self.record.label}: algorithm "{conflict.name}" is served by runner {conflict.other.label} '
                f"with another signature: {await self._difference(conflict)}; rename one of them, or start with "
                "--replace"
                for conflict in lost
            ]
        )

    async def _difference(self, conflict: Conflict) -> str:
        """Return the first difference of the two signatures, or both hashes if the other's cannot be had."""
        own = self._service.served[conflict.name]
        subject = names.algorithm_subject(conflict.name, SCHEMA)
        try:
            theirs = orjson.loads((await self._bus.request(subject, b"", timeout_s=SCHEMA_S)).data)
        except (BusError, ValueError):
            theirs = {}
        found = first_difference(_signature(orjson.loads(schema_answer(own))), _signature(theirs))
        other_hash = conflict.other.algorithms[conflict.name].hash
        # The answer may come from a replica of this runner.
        if theirs.get("schema_hash") == other_hash and found:
            return found
        return f"schema {own.hash[:12]} here and {other_hash[:12]} there"

    async def _remember(self) -> None:
        """Note the names for those who ask for one when nobody serves it any more."""
        seen = orjson.dumps({"runner": self._base.name, "seen_ms": self._clock.time_ns() // 1_000_000})
        try:
            bucket = await self._bus.key_value(names.ALGORITHMS_BUCKET, create=True)
            for name in self._service.served:
                await bucket.put(name, seen)
        except BusError as error:
            log.warning("the names of the algorithms are not kept: %s", error, extra={"action": "names"})


def _signature(told: dict[str, Any]) -> Any:
    """Return what counts of the answer to a question for schemas."""
    return without_texts({"request": told.get("request"), "response": told.get("response")})


# --- the process ---


async def _connected(settings: AlgorithmsSettings, stop: asyncio.Event) -> Bus | None:
    """Connect, however long NATS is away; None when asked to stop meanwhile. Raises AccessError, SettingsError."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    connecting = asyncio.create_task(_connect(settings), name="connect")
    try:
        await asyncio.wait([stopped, connecting], return_when=asyncio.FIRST_COMPLETED)
        return connecting.result() if connecting.done() else None
    finally:
        for task in (stopped, connecting):
            task.cancel()
        await asyncio.gather(stopped, connecting, return_exceptions=True)


async def _connect(settings: AlgorithmsSettings) -> Bus:
    while True:
        try:
            return await NatsBus.of(settings.nats, f"algorithms {runner_name(settings)}")
        except BusUnavailableError as error:  # no start order: it may come later
            log.warning("%s", error, extra={"action": "wait-nats"})


async def _run_on(bus: Bus, runner: Runner, settings: AlgorithmsSettings, stop: asyncio.Event) -> None:
    closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    starting = asyncio.create_task(runner.start(), name="start")
    try:
        await asyncio.wait([starting, closed, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            logs.tell_ready(settings.ready_fd)
            log.info("ready: %s", ", ".join(runner.record.algorithms), extra={"action": "ready"})
            ends: list[asyncio.Future[Any]] = [runner.ended, closed, stopped]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if runner.ended.done():
            runner.ended.result()
            log.warning("every algorithm is served by others now: this runner ends", extra={"action": "replaced"})
        if closed.done():
            raise BusClosedError("NATS has closed the connection for good")
    finally:
        for task in (closed, stopped, starting):
            task.cancel()
        await asyncio.gather(closed, stopped, starting, return_exceptions=True)
        await runner.stop()
