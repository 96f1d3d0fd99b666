"""One runner on a connection: joins the others, serves, and leaves.

Join: write the presence key, read those of all others, yield or go on (`presence.py`), subscribe, tell that it serves.
What runs the calls is an `Executor`'s business, and the process around it that of `process.py`.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from runtime.algorithms.discover import Description
from runtime.algorithms.executors import Executor
from runtime.algorithms.presence import Conflict, Offered, RunnerRecord, RunnerState, conflicts, shared
from runtime.algorithms.registry import Registry
from runtime.algorithms.service import AlgorithmService, ServiceTerms, schema_answer
from runtime.algorithms.signatures import first_difference, without_texts
from runtime.algorithms.wire import SCHEMA
from runtime.bus.base import Bus
from runtime.bus.presence import EXPIRY_S, Heartbeat, ServiceRecord
from runtime.clock import Clock
from runtime.errors import AdapterError, BusError
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds that others have to withdraw what this runner replaces.
REPLACE_S = EXPIRY_S + 2.0
# Seconds for the schema of another runner, which only makes a message clearer.
SCHEMA_S = 2.0
# Characters of a documentation in the presence record, which is written every two seconds.
DOC_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerTerms:
    """How a runner serves. concurrency, timeout_s: of each algorithm that has none of its own.

    replaces: it wins against runners with other signatures. grace_s: for what still runs when it stops.
    """

    name: str
    concurrency: int
    timeout_s: float
    max_claim_bytes: int
    grace_s: float
    replaces: bool = False


class Runner:
    """One runner on a connection: joins the others, serves, and leaves."""

    def __init__(
        self,
        bus: Bus,
        terms: RunnerTerms,
        algorithms: Sequence[Description],
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._terms = terms
        self._clock = clock
        self._base = ServiceRecord.of_this_process(names.ALGORITHM, terms.name)
        self._state = RunnerState.JOINING
        # 0 until the key has its first revision: until then it claims no name.
        self._born = 0
        service = ServiceTerms(
            runner=terms.name,
            instance=self._base.instance,
            concurrency=terms.concurrency,
            timeout_s=terms.timeout_s,
            max_claim_bytes=terms.max_claim_bytes,
        )
        self._service = AlgorithmService(bus, service, algorithms, executor, clock)
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
            replaces=self._terms.replaces,
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
        await self._service.stop(self._terms.grace_s)
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
        """Look at the others after every change, which every beat is; only what serves can lose a name here."""
        if self._registry is None or self._state is not RunnerState.SERVING or self._withdrawing:
            return
        found = conflicts(self.record, self._registry.runners())
        lost = [conflict for conflict in found if self.record.yields_to(conflict.other)]
        if replaced := {conflict.name for conflict in lost if conflict.other.replaces}:
            self._spawn(self._withdraw(sorted(replaced)))
        elif lost:
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
