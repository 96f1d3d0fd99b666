"""Kind `dispatch`: hands each message to a runner of the algorithm that it names, and sends the result.

    {"algorithm": "ocr", "payload": {…}, …}  ─▶  {"algorithm", "result", "runner", "version", "time_ms", …}

| the call ends with | the message |
|---|---|
| a result | goes on, its other keys with it |
| nobody serves the algorithm | waits up to `wait_for_runner`, then is a dead letter |
| every runner busy | is tried again at once, a few times; then it waits, for as long as that takes |
| invalid payload, no JSON as result, no permission | is a dead letter at once |
| the algorithm raised, was too late, or its runner died | is tried again by the node's `retry` |

Waiting uses up no attempt, and lets other messages pass.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from runtime.algorithms.client import AlgorithmResult, Algorithms
from runtime.algorithms.wire import Outcome
from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.errors import (
    AlgorithmError,
    BusUnavailableError,
    DecodeError,
    Drop,
    HandlerTimeoutError,
    NoRespondersError,
    Reject,
    Wait,
)
from runtime.node.builtin.loaded import loaded
from runtime.node.context import Context
from runtime.node.handler import LoadedHandler
from runtime.payload import encode_json
from runtime.spec.node import DispatchSpec

log = logging.getLogger(__name__)

# Calls beyond the first that a busy algorithm gets at once: another replica may be free.
BUSY_TRIES = 3
# Seconds that a call may take on a node without `timeout`.
MAX_CALL_S = 24 * 3600.0
# Names of missing algorithms that are remembered, so that each is told of once; messages may hold any name.
MAX_MISSING = 1_000

_MALFORMED = (Outcome.INVALID, Outcome.BAD_IMPLEMENTATION, Outcome.AUTH)


def prepare(spec: DispatchSpec, timeout_s: float | None) -> Callable[[Bus, Clock], LoadedHandler]:
    """Return what makes the node's handler. timeout_s: of one delivery."""
    return partial(_handler, spec, timeout_s)


def _handler(spec: DispatchSpec, timeout_s: float | None, bus: Bus, clock: Clock) -> LoadedHandler:
    dispatcher = Dispatcher(spec, timeout_s or MAX_CALL_S, bus, clock)
    return loaded(dispatcher.handle, teardown=dispatcher.teardown)


class Job(NamedTuple):
    """What a message asks for. others: its other keys, which go on with the result."""

    algorithm: str
    payload: dict[str, Any]
    others: dict[str, Any]


def job_of(data: Any) -> Job:
    """Read a message. Raises DecodeError with everything that is wrong with it."""
    if not isinstance(data, dict):
        raise DecodeError(_expected([f"it is {type(data).__name__}"]), reason="payload")
    algorithm, payload = data.get("algorithm"), data.get("payload")
    faults = []
    if not isinstance(algorithm, str) or not algorithm:
        faults.append('"algorithm" is no name' if "algorithm" in data else '"algorithm" is missing')
    if not isinstance(payload, dict):
        faults.append('"payload" is no object' if "payload" in data else '"payload" is missing')
    if faults:
        raise DecodeError(_expected(faults), reason="payload")
    others = {key: value for key, value in data.items() if key not in ("algorithm", "payload")}
    return Job(str(algorithm), dict(payload or {}), others)


def _expected(faults: list[str]) -> str:
    return f'a message here is {{"algorithm": name, "payload": object}}: {", ".join(faults)}'


class Dispatcher:
    """The handler of one node."""

    def __init__(self, spec: DispatchSpec, timeout_s: float, bus: Bus, clock: Clock) -> None:
        self._spec = spec
        self._timeout_s = timeout_s
        self._clock = clock
        self._algorithms = Algorithms(bus, clock)
        self._missing: set[str] = set()

    async def teardown(self, ctx: Context) -> None:
        await self._algorithms.close()

    async def handle(self, ctx: Context, data: Any) -> dict[str, Any]:
        job = job_of(data)
        started_s = self._clock.monotonic()
        try:
            answer = await self._call(job, ctx.request_id)
        except AlgorithmError as error:
            consequence = self._consequence(job.algorithm, error)
            if consequence is None:
                raise
            raise consequence from error
        if job.algorithm in self._missing:
            self._missing.discard(job.algorithm)
            log.info("'%s' is served again", job.algorithm, extra={"action": "runner_found"})
        return {
            **job.others,
            "algorithm": job.algorithm,
            "result": answer.result,
            "runner": answer.runner,
            "version": answer.version,
            "time_ms": round((self._clock.monotonic() - started_s) * 1000, 3),
        }

    async def _call(self, job: Job, request_id: str) -> AlgorithmResult:
        """Call the algorithm, again while it is busy. Raises AlgorithmError."""
        for _ in range(BUSY_TRIES):
            try:
                return await self._call_once(job, request_id)
            except AlgorithmError as error:
                if error.outcome != Outcome.BUSY:
                    raise
        return await self._call_once(job, request_id)

    async def _call_once(self, job: Job, request_id: str) -> AlgorithmResult:
        body = encode_json(job.payload)
        return await self._algorithms.call(job.algorithm, body, timeout_s=self._timeout_s, request_id=request_id)

    def _consequence(self, algorithm: str, error: AlgorithmError) -> Exception | None:
        """Return what decides about a message whose call has failed; None for a failure like any handler's.

        Where nobody has taken the call, the algorithm has not begun; a runner that has gone may have run it.
        """
        if error.outcome in _MALFORMED:
            return Reject(f"algorithm '{algorithm}': {error.detail}")
        if isinstance(error.__cause__, BusUnavailableError):
            return error.__cause__
        if error.outcome == Outcome.UNKNOWN or isinstance(error.__cause__, NoRespondersError):
            self._report_missing(algorithm)
            return Wait(f"algorithm '{algorithm}': {error.detail}", limit_s=self._spec.wait_for_runner_s)
        if error.outcome == Outcome.BUSY:
            return Wait(f"algorithm '{algorithm}' is busy: {error.detail}")
        if error.outcome == Outcome.CANCELLED:
            return Drop(f"algorithm '{algorithm}': {error.detail}")
        if error.outcome == Outcome.TIMEOUT:
            return HandlerTimeoutError(f"algorithm '{algorithm}': {error.detail}")
        if error.traceback:  # the dead letter shows it below our own
            error.add_note(error.traceback)
        return None

    def _report_missing(self, algorithm: str) -> None:
        if algorithm in self._missing or len(self._missing) >= MAX_MISSING:
            return
        self._missing.add(algorithm)
        log.warning(
            "nobody serves '%s'; its messages wait for %g s each", algorithm, self._spec.wait_for_runner_s,
            extra={"action": "no_runner"},
        )  # fmt: skip
