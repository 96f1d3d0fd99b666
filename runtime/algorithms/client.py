"""The caller's side of algorithms: `Algorithms` runs them by name, lists them and waits for them.

    async with Algorithms(bus) as algorithms:
        await algorithms.run("ocr", {"image_url": url}, timeout=5)     # the result, or AlgorithmError
        await algorithms.list(); await algorithms.schemas(); await algorithms.wait("ocr", timeout=30)

A call asks the runner to say which instance has taken it. If that instance is gone before it has answered, the call
ends as UNAVAILABLE one presence expiry after its death, and not with its timeout.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from runtime.algorithms.registry import Registry, ServedAlgorithm
from runtime.algorithms.wire import (
    ACCEPT_HEADER,
    ACCEPTED,
    DEADLINE_HEADER,
    REQUEST_ID_HEADER,
    RUN,
    RUNNER_HEADER,
    SCHEMA,
    STATUS_HEADER,
    TRACE_HEADER,
    VERSION_HEADER,
    Failure,
    Outcome,
)
from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.bus.bodies import pack, unpack
from runtime.bus.core import NO_RESPONDERS
from runtime.bus.microservice import ERROR_CODE_HEADER
from runtime.bus.presence import EXPIRY_S
from runtime.clock import Clock, SystemClock, TimerHandle
from runtime.errors import (
    AlgorithmError,
    BusError,
    BusUnavailableError,
    DecodeError,
    EncodeError,
    MessageTooLargeError,
    NoRespondersError,
    NotFoundError,
)
from runtime.message import new_request_id
from runtime.payload import encode_json
from runtime.spec import names

# Seconds that a call may take when the caller does not say; as long as a runner lets it run by default.
DEFAULT_TIMEOUT_S = 60.0
# Seconds for the answer to a question for schemas.
SCHEMA_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmResult:
    """What a call has returned, and who has answered it."""

    result: Any
    runner: str
    version: str


@dataclass(slots=True, eq=False)
class _Open:
    """A call that has no answer yet. instance: that has taken it, "" until one has said so."""

    answer: asyncio.Future[CoreMessage]
    instance: str = ""
    watched: bool = False
    timers: list[TimerHandle] = field(default_factory=list)


class Algorithms:
    """Calls algorithms over a connection, which stays the caller's. To be used on the loop of the bus.

    What it needs of NATS is opened with the first call; `close` it, or use it in an `async with` block.
    """

    def __init__(self, bus: Bus, clock: Clock | None = None) -> None:
        self._bus = bus
        self._clock = clock or SystemClock()
        self._opening = asyncio.Lock()
        self._registry: Registry | None = None
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._calls: dict[str, _Open] = {}

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening; calls that wait end as UNAVAILABLE."""
        for call in list(self._calls.values()):
            _fail(call, "the client was closed")
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if self._registry is not None:
            await self._registry.close()
        self._subscription, self._registry = None, None

    async def run(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Any:
        """Run an algorithm and return its result. timeout: in seconds, for everything.

        Cancelling leaves the algorithm running. Raises AlgorithmError, whose `outcome` says how the call has ended.
        """
        try:
            body = encode_json(dict(arguments or {}))
        except EncodeError as error:
            raise AlgorithmError(f"the arguments are no JSON: {error}", outcome=Outcome.INVALID) from error
        return (await self.call(name, body, timeout_s=timeout)).result

    async def call(
        self, name: str, body: bytes, *, timeout_s: float, request_id: str = "", traceparent: str = ""
    ) -> AlgorithmResult:
        """Run an algorithm with the JSON object of its arguments. Raises as `run`."""
        if not names.is_algorithm_name(name):
            raise AlgorithmError(f'"{name}" is no name of an algorithm', outcome=Outcome.UNKNOWN)
        headers = {
            DEADLINE_HEADER: str(self._clock.time_ns() // 1_000_000 + round(timeout_s * 1000)),
            REQUEST_ID_HEADER: request_id or new_request_id(),
            ACCEPT_HEADER: "1",
            **({TRACE_HEADER: traceparent} if traceparent else {}),
        }
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(name, body, headers)
                return await self._read(answer)
        except TimeoutError as error:
            detail = f"no answer of {name} within {timeout_s:g} s"
            raise AlgorithmError(detail, outcome=Outcome.TIMEOUT) from error
        except MessageTooLargeError as error:
            raise AlgorithmError(str(error), outcome=Outcome.INVALID) from error
        except NoRespondersError as error:
            raise await self._nobody(name) from error
        except (BusUnavailableError, DecodeError) as error:
            raise AlgorithmError(str(error), outcome=Outcome.UNAVAILABLE) from error

    async def list(self) -> dict[str, ServedAlgorithm]:
        """Return what is served now, by name. Raises BusError."""
        return (await self._open()).algorithms()

    async def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of the request of everything that is served now. Raises BusError."""
        served = sorted(await self.list())
        answers = await asyncio.gather(*(self._schema(name) for name in served))
        return {name: answer["request"] for name, answer in zip(served, answers, strict=True) if answer is not None}

    async def describe(self, name: str) -> dict[str, Any]:
        """Return `request`, `response` (None without a hint), `schema_hash`, `version` and `doc` of an algorithm.

        Raises AlgorithmError when nobody serves it, BusError.
        """
        found = await self._schema(name) if names.is_algorithm_name(name) else None
        if found is None:
            raise await self._nobody(name)
        return found

    async def wait(self, name: str, *, timeout: float) -> ServedAlgorithm:
        """Return as soon as somebody serves it. Raises AlgorithmError after `timeout` seconds, BusError."""
        registry = await self._open()
        try:
            async with asyncio.timeout(timeout):
                await registry.wait_until(lambda: name in registry.algorithms())
        except TimeoutError as error:
            raise await self._nobody(name) from error
        return registry.algorithms()[name]

    # --- one call ---

    async def _ask(self, name: str, body: bytes, headers: dict[str, str]) -> CoreMessage:
        """Send a call and return its answer. Raises NoRespondersError, AlgorithmError, BusError."""
        await self._open()
        packed = await pack(self._bus, names.ALGORITHMS_STORE, body)
        token = secrets.token_hex(8)
        call = self._calls[token] = _Open(asyncio.get_running_loop().create_future())
        try:
            self._bus.send(
                names.algorithm_subject(name, RUN), packed.data,
                reply=f"{self._inbox}.{token}", headers={**headers, **packed.headers},
            )  # fmt: skip
            answer = await call.answer
        finally:
            del self._calls[token]
            for timer in call.timers:
                timer.cancel()
        if answer.headers.get("Status") == NO_RESPONDERS["Status"]:
            raise NoRespondersError(f"nobody serves {name}")
        return answer

    async def _read(self, answer: CoreMessage) -> AlgorithmResult:
        data = await unpack(self._bus, names.ALGORITHMS_STORE, answer.data, answer.headers)
        if ERROR_CODE_HEADER in answer.headers:
            raise Failure.decode(data).error()
        try:
            result = orjson.loads(data)["result"]
        except (ValueError, KeyError, TypeError) as error:
            detail = f"the answer is no JSON with a result: {error!r}"
            raise AlgorithmError(detail, outcome=Outcome.BAD_IMPLEMENTATION) from error
        headers = answer.headers
        return AlgorithmResult(
            result=result, runner=headers.get(RUNNER_HEADER, ""), version=headers.get(VERSION_HEADER, "")
        )

    def _on_message(self, message: CoreMessage) -> None:
        call = self._calls.get(message.subject.rpartition(".")[2])
        if call is None or call.answer.done():
            return
        if message.headers.get(STATUS_HEADER) == ACCEPTED:
            self._on_accepted(call, message.data)
        else:
            call.answer.set_result(message)

    def _on_accepted(self, call: _Open, data: bytes) -> None:
        call.instance = str(orjson.loads(data)["instance"])
        call.watched = self._is_there(call.instance)
        if not call.watched:
            # It may have told of itself a moment ago, and we hear of it later; or it may never.
            call.timers.append(self._clock.call_later(EXPIRY_S, lambda: self._look_at(call, patient=False)))

    # --- who is there ---

    async def _open(self) -> Registry:
        async with self._opening:
            if self._registry is None:
                self._inbox = self._bus.new_inbox()
                self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_message)
                self._registry = await Registry.open(self._bus, self._clock, on_change=self._look)
            return self._registry

    def _look(self) -> None:
        """After every change of who is there: end the calls whose runner has gone."""
        for call in list(self._calls.values()):
            self._look_at(call, patient=True)

    def _look_at(self, call: _Open, *, patient: bool) -> None:
        """patient: the instance may not have been heard of yet."""
        if not call.instance:
            return
        if self._is_there(call.instance):
            call.watched = True
        elif call.watched or not patient:
            _fail(call, f"runner instance {call.instance} has gone before it has answered")

    def _is_there(self, instance: str) -> bool:
        return self._registry is not None and self._registry.is_there(instance)

    async def _schema(self, name: str) -> dict[str, Any] | None:
        """Return what a runner tells of an algorithm, None when nobody serves it."""
        try:
            answer = await self._bus.request(names.algorithm_subject(name, SCHEMA), b"", timeout_s=SCHEMA_S)
        except NoRespondersError:
            return None
        told: dict[str, Any] = orjson.loads(answer.data)
        return told

    async def _nobody(self, name: str) -> AlgorithmError:
        """Return why nobody serves it: never heard of, or not now."""
        served = ", ".join(await self._served_names()) or "none"
        try:
            entry = await (await self._bus.key_value(names.ALGORITHMS_BUCKET)).get(name)
        except NotFoundError:
            return AlgorithmError(f'no algorithm "{name}" is known; there are: {served}', outcome=Outcome.UNKNOWN)
        except BusError as error:
            return AlgorithmError(f'nobody serves "{name}" now ({error})', outcome=Outcome.UNAVAILABLE)
        told = orjson.loads(entry.value)
        seen = datetime.fromtimestamp(told["seen_ms"] / 1000, UTC).isoformat(timespec="seconds")
        detail = f'nobody serves "{name}" now; runner {told["runner"]} did at {seen}'
        return AlgorithmError(detail, outcome=Outcome.UNAVAILABLE)

    async def _served_names(self) -> tuple[str, ...]:
        try:
            return tuple(await self.list())
        except BusError:
            return ()


def _fail(call: _Open, why: str) -> None:
    if not call.answer.done():
        call.answer.set_exception(AlgorithmError(why, outcome=Outcome.UNAVAILABLE))
