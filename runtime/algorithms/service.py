"""The endpoints of one runner: takes calls from NATS, hands them to slots, and sends the answers.

Callbacks only look at the headers and queue; whatever takes time happens in slots, so that questions about the service
(`$SRV.PING`) are answered while every slot computes. The process around it is `process.py`.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import orjson

from runtime.algorithms.discover import Description
from runtime.algorithms.executors import Executor
from runtime.algorithms.slots import Call, Slots
from runtime.algorithms.wire import (
    ACCEPT_HEADER,
    ACCEPTED,
    DEADLINE_HEADER,
    RUN,
    RUNNER_HEADER,
    SCHEMA,
    STATUS_HEADER,
    VERSION_HEADER,
    Answer,
    Failure,
    Fault,
    Outcome,
)
from runtime.bus.base import Bus, CoreMessage, Headers, Subscription
from runtime.bus.bodies import pack, unpack
from runtime.bus.microservice import Endpoint, EndpointStats, MicroService, ServiceIdentity
from runtime.clock import Clock
from runtime.errors import DecodeError, MessageTooLargeError
from runtime.spec import names
from runtime.version import __version__

log = logging.getLogger(__name__)

# Bytes of an answer to $SRV.INFO up to which it holds the schemas, too.
MAX_INFO_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTerms:
    """How a runner serves. concurrency, timeout_s: of each algorithm that has none of its own."""

    runner: str
    instance: str
    concurrency: int
    timeout_s: float
    max_claim_bytes: int


class AlgorithmService:
    """Serves algorithms between `start` and `stop`."""

    def __init__(
        self, bus: Bus, terms: ServiceTerms, algorithms: Sequence[Description], executor: Executor, clock: Clock
    ) -> None:
        self._bus = bus
        self._terms = terms
        self._served = {each.name: each for each in algorithms}
        self._slots = {
            each.name: Slots(
                each.name, executor, clock,
                concurrency=each.concurrency or terms.concurrency, timeout_s=each.timeout_s or terms.timeout_s,
            )
            for each in algorithms
        }  # fmt: skip
        self._schema_stats = {each.name: EndpointStats() for each in algorithms}
        self._subscriptions: dict[str, list[Subscription]] = {}
        identity = ServiceIdentity(
            name=f"algorithms-{terms.runner}",
            instance=terms.instance,
            version=__version__.partition(".dev")[0],
            description=f"algorithms of runner {terms.runner}",
            metadata={"kind": names.ALGORITHM, "runner": terms.runner},
        )
        self._micro = MicroService(bus, identity, self._endpoints)

    @property
    def served(self) -> Mapping[str, Description]:
        """What is served now, by name."""
        return self._served

    async def start(self) -> None:
        """Take calls. Raises BusError."""
        await self._micro.start()
        for name in self._served:
            callbacks = {SCHEMA: partial(self._on_schema, name), RUN: partial(self._on_call, name)}
            self._subscriptions[name] = [
                await self._bus.subscribe(
                    names.algorithm_subject(name, action), callback, queue=names.algorithm_queue(name)
                )
                for action, callback in callbacks.items()
            ]

    async def withdraw(self, name: str) -> None:
        """Take no further call of one algorithm; those that were taken go on."""
        for subscription in self._subscriptions.pop(name, ()):
            await subscription.unsubscribe()
        # Afterwards: what had arrived is still answered.
        self._served.pop(name, None)

    async def drain(self) -> None:
        """Take no further call at all."""
        for name in list(self._served):
            await self.withdraw(name)

    async def stop(self, grace_s: float) -> None:
        """Drain, let calls finish for `grace_s` seconds, refuse the rest, and be gone."""
        await self.drain()
        try:
            async with asyncio.timeout(grace_s):
                for slots in self._slots.values():
                    await slots.idle()
        except TimeoutError:
            log.warning("calls were given up at the end of the grace time", extra={"action": "given-up"})
        for slots in self._slots.values():
            slots.refuse_all(Failure(outcome=Outcome.UNAVAILABLE, detail=f"runner {self._terms.runner} has stopped"))
        await self._micro.stop()

    # --- requests ---

    def _on_call(self, name: str, request: CoreMessage) -> None:
        call = Call(
            deadline_ms=_deadline_ms(request.headers),
            body=partial(self._body, request),
            answer=partial(self._answer, name, request),
            refuse=partial(self._refuse, request),
        )
        if request.headers.get(ACCEPT_HEADER) == "1" and self._slots[name].has_room():
            # Before the call is queued, so that it leaves before the answer.
            told = orjson.dumps({"instance": self._terms.instance})
            self._send(request, told, {STATUS_HEADER: ACCEPTED, RUNNER_HEADER: self._terms.runner})
        self._slots[name].offer(call)

    def _on_schema(self, name: str, request: CoreMessage) -> None:
        self._schema_stats[name].requests += 1
        self._send(request, schema_answer(self._served[name]), {})

    async def _body(self, request: CoreMessage) -> bytes | Failure:
        try:
            return await unpack(
                self._bus,
                names.ALGORITHMS_STORE,
                request.data,
                request.headers,
                max_bytes=self._terms.max_claim_bytes,
            )
        except DecodeError as error:
            return Failure(outcome=Outcome.INVALID, detail=str(error), errors=[Fault("", str(error))])

    async def _answer(self, name: str, request: CoreMessage, answer: Answer) -> None:
        own = {RUNNER_HEADER: self._terms.runner}
        if name in self._served:
            own[VERSION_HEADER] = self._served[name].version
        data = answer.encode() if isinstance(answer, Failure) else answer
        headers = {**own, **answer.headers()} if isinstance(answer, Failure) else own
        try:
            body = await pack(self._bus, names.ALGORITHMS_STORE, data, max_claim_bytes=self._terms.max_claim_bytes)
        except MessageTooLargeError as error:
            self._refuse(request, Failure(outcome=Outcome.INVALID, detail=f"the result is too large: {error}"))
            return
        self._send(request, body.data, {**headers, **body.headers})

    def _refuse(self, request: CoreMessage, failure: Failure) -> None:
        self._send(request, failure.encode(), {RUNNER_HEADER: self._terms.runner, **failure.headers()})

    def _send(self, request: CoreMessage, data: bytes, headers: Headers) -> None:
        if request.reply:
            self._bus.send(request.reply, data, headers=headers)

    # --- what tools are told ---

    def _endpoints(self) -> list[Endpoint]:
        metadata = {name: self._metadata(each) for name, each in self._served.items()}
        size = sum(len(value) for told in metadata.values() for value in told.values())
        if 2 * size > MAX_INFO_BYTES:  # each stands in two endpoints
            for told in metadata.values():
                del told["schema"]
        return [endpoint for name in self._served for endpoint in self._endpoints_of(name, metadata[name])]

    def _endpoints_of(self, name: str, metadata: dict[str, str]) -> list[Endpoint]:
        def endpoint(title: str, action: str, stats: EndpointStats) -> Endpoint:
            return Endpoint(
                name=title,
                subject=names.algorithm_subject(name, action),
                queue=names.algorithm_queue(name),
                metadata=metadata,
                stats=lambda: stats,
            )

        schema_stats = self._schema_stats[name]
        return [endpoint(name, RUN, self._slots[name].stats), endpoint(f"{name}-schema", SCHEMA, schema_stats)]

    def _metadata(self, algorithm: Description) -> dict[str, str]:
        return {
            "kind": names.ALGORITHM,
            "runner": self._terms.runner,
            "version": algorithm.version,
            "schema_hash": algorithm.hash,
            "doc": algorithm.doc,
            "schema": schema_answer(algorithm).decode(),
        }


def schema_answer(algorithm: Description) -> bytes:
    """Return the answer to a question for the schemas of an algorithm."""
    return orjson.dumps(
        {
            "request": algorithm.request,
            "response": algorithm.response,
            "schema_hash": algorithm.hash,
            "version": algorithm.version,
            "doc": algorithm.doc,
        }
    )


def _deadline_ms(headers: Headers) -> int:
    """Return the deadline of a request, 0 for none; what is no number is none."""
    text = headers.get(DEADLINE_HEADER, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
