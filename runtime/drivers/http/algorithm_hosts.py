"""Plain HTTP runners: whoever answers `POST /run/{algorithm}` becomes a runner of algorithms on NATS.

    POST /algorithms {"algorithm": "ocr", "host": "http://ocr:5000"}

Each registration is a `Runner` of this process whose calls are requests to the host, so it is listed, found and refused
as every other. A host that gives no answer at all three times in a row is forgotten, as are all of them with this
process. Hosts may register before they listen.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import httpx
import orjson

from runtime.algorithms.discover import Description
from runtime.algorithms.executors import Execution, Place
from runtime.algorithms.runner import Runner, RunnerTerms
from runtime.algorithms.signatures import schema_hash
from runtime.algorithms.wire import Answer, Failure, Outcome, result_body
from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.drivers.http.answers import JSON, Refusal
from runtime.errors import AdapterError
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds between two looks at a host, and for one; and how many in a row may fail.
PROBE_S = 5.0
PROBE_TIMEOUT_S = 3.0
MAX_FAILURES = 3
# Calls of one algorithm that a host is given at once.
CONCURRENCY = 16
# Seconds that a host has for a call, when the caller says nothing.
TIMEOUT_S = 60.0
# Seconds for what a host still computes when the driver stops.
GRACE_S = 2.0
# Bytes of an answer that is taken from a host.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# Registrations that one driver holds.
MAX_HOSTS = 1_000
# What a host takes is not known here: it checks its arguments itself.
ANY_OBJECT = {"type": "object"}

_OUTCOMES = {
    400: Outcome.INVALID,
    404: Outcome.UNAVAILABLE,
    413: Outcome.INVALID,
    422: Outcome.INVALID,
    429: Outcome.BUSY,
    503: Outcome.UNAVAILABLE,
    504: Outcome.TIMEOUT,
}


@dataclass(slots=True, eq=False)
class _Registered:
    """One registration. failures: looks in a row without an answer."""

    runner: Runner
    executor: "HostExecutor"
    failures: int = 0


class AlgorithmHosts:
    """The HTTP runners that have registered with this driver; `run` looks after them."""

    def __init__(self, bus: Bus, patterns: Sequence[str], clock: Clock) -> None:
        """patterns: of the addresses that may be registered, as `http://*.internal:5000`."""
        self._bus = bus
        self._patterns = [pattern.rstrip("/").lower() for pattern in patterns]
        self._clock = clock
        self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False)
        self._registering = asyncio.Lock()
        self._registered: dict[tuple[str, str], _Registered] = {}

    async def register(self, name: str, host: str) -> dict[str, str]:
        """Offer an algorithm of a host from now on; again is no error. Returns what was registered.

        Raises Refusal: `invalid`; 403 for a host that no pattern names; 409 where the name has another signature.
        """
        if not names.is_algorithm_name(name):
            raise Refusal("invalid", f'"{name}" is no name of an algorithm; use ASCII letters, digits and _')
        address = self._allowed(host)
        async with self._registering:
            if (name, address) not in self._registered:
                self._registered[name, address] = await self._join(name, address)
        return {"algorithm": name, "host": address}

    async def run(self) -> None:
        """Look at every host every `PROBE_S`, until cancelled; then all leave."""
        try:
            while True:
                await self._clock.sleep(PROBE_S)
                await asyncio.gather(*(self._probe(key) for key in list(self._registered)))
        finally:
            await asyncio.gather(*(self._leave(key) for key in list(self._registered)))
            await self._client.aclose()

    def _allowed(self, host: str) -> str:
        """Return the address of a host as it is called. Raises Refusal."""
        try:
            url = httpx.URL(host)
        except httpx.InvalidURL as error:
            raise Refusal("invalid", f"the host is no URL: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.path != "/" or url.query:
            raise Refusal("invalid", "the host is no address; send http://host:port")
        address = f"{url.scheme}://{url.netloc.decode()}"
        if not any(fnmatchcase(address, pattern) for pattern in self._patterns):
            raise Refusal("auth", f"{address} may not be registered here", status=403)
        return address

    async def _join(self, name: str, address: str) -> _Registered:
        if len(self._registered) >= MAX_HOSTS:
            raise Refusal("busy", f"{MAX_HOSTS:,} algorithms of HTTP runners are registered, as many as may be")
        executor = HostExecutor(self._client, address)
        terms = RunnerTerms(
            name=re.sub(r"[^a-z0-9]+", "-", address)[:64].strip("-"),
            concurrency=CONCURRENCY,
            timeout_s=TIMEOUT_S,
            max_claim_bytes=MAX_ANSWER_BYTES,
            grace_s=GRACE_S,
        )
        runner = Runner(self._bus, terms, [_description(name, address)], executor, self._clock)
        try:
            await runner.start()
        except AdapterError as error:
            await runner.stop()
            raise Refusal("invalid", "; ".join(error.problems), status=409) from error
        except BaseException:
            await runner.stop()
            raise
        log.info("%s is served by %s over HTTP", name, address, extra={"action": "registered"})
        return _Registered(runner, executor)

    async def _probe(self, key: tuple[str, str]) -> None:
        registered = self._registered[key]
        registered.failures = 0 if await registered.executor.answers(key[0]) else registered.failures + 1
        if registered.failures >= MAX_FAILURES:
            log.warning("%s at %s gives no answer any more and is forgotten", *key, extra={"action": "forgotten"})
        elif registered.runner.ended.done():
            log.warning("%s at %s has lost its name to another runner", *key, extra={"action": "forgotten"})
        else:
            return
        await self._leave(key)

    async def _leave(self, key: tuple[str, str]) -> None:
        runner = self._registered.pop(key).runner
        await runner.stop()
        if runner.ended.done() and not runner.ended.cancelled():
            runner.ended.exception()  # was told by the probe; nobody else awaits it


class HostExecutor:
    """See `algorithms.executors.Executor`: calls are requests to one host."""

    def __init__(self, client: httpx.AsyncClient, address: str) -> None:
        self._client = client
        self._address = address

    async def place(self) -> Place:
        return self

    def begin(self, name: str, body: bytes) -> Execution:
        return _HostCall(asyncio.create_task(self._post(name, body), name=f"call {name} at {self._address}"))

    def release(self) -> None:
        """There is room for every slot."""

    async def close(self) -> None:
        """The client is not its own."""

    async def answers(self, name: str) -> bool:
        """Say whether the host gives any answer; that it takes no GET here is one."""
        try:
            async with self._client.stream("GET", self._url(name), timeout=PROBE_TIMEOUT_S):
                return True
        except httpx.HTTPError:
            return False

    async def _post(self, name: str, body: bytes) -> Answer:
        try:
            async with self._client.stream(
                "POST", self._url(name), content=body, headers={"Content-Type": JSON}, timeout=None
            ) as response:
                return _answer(response.status_code, await _read(response))
        except httpx.HTTPError as error:
            detail = f"{self._address} gives no answer: {type(error).__name__}"
            return Failure(outcome=Outcome.UNAVAILABLE, detail=detail)

    def _url(self, name: str) -> str:
        return f"{self._address}/run/{name}"


class _HostCall:
    def __init__(self, answer: asyncio.Task[Answer]) -> None:
        self.answer = answer

    def give_up(self) -> None:
        self.answer.cancel()


def _description(name: str, address: str) -> Description:
    return Description(
        name=name,
        doc=f"Runs at {address}, which checks its arguments itself.",
        version="",
        request=ANY_OBJECT,
        response=None,
        hash=schema_hash(ANY_OBJECT, None),
    )


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body, None for one that is too large."""
    chunks, size = [], 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(status: int, body: bytes | None) -> Answer:
    """Return what a host's answer means: `{"result": …}`, or a result by itself."""
    if body is None:
        detail = f"the result is larger than {MAX_ANSWER_BYTES:,} bytes"
        return Failure(outcome=Outcome.INVALID, detail=detail)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if status != 200:
            return _failure(status, body.decode(errors="replace")[:1_000])
        return Failure(outcome=Outcome.BAD_IMPLEMENTATION, detail=f"the result is no JSON: {error}")
    if status == 200:
        return body if isinstance(value, dict) and value.keys() == {"result"} else result_body(body)
    told = value.get("detail", value) if isinstance(value, dict) else value
    return _failure(status, told if isinstance(told, str) else orjson.dumps(told).decode())


def _failure(status: int, detail: str) -> Failure:
    outcome = _OUTCOMES.get(status, Outcome.FAILED)
    return Failure(outcome=outcome, detail=detail or f"HTTP status {status}")
