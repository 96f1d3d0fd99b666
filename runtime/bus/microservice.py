"""A NATS micro-service as tools such as `nats micro` see it: answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`.

Protocol: ADR-32 of nats-io/nats-architecture-and-design. Only the answers about a service are given here; what its
endpoints do, and the counting of it, is their owner's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from runtime.bus.base import Bus, CoreMessage, Headers, Subscription

# Headers of an answer that is an error.
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
ERROR_HEADER = "Nats-Service-Error"
# Characters of an error that go into a header; the body has all of it.
ERROR_CHARACTERS = 256

_TYPE = "io.nats.micro.v1"


@dataclass(slots=True)
class EndpointStats:
    """Counters of an endpoint since its start. processing_ns: time of all requests together."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint. name: of `[A-Za-z0-9_-]`. stats: called for every answer."""

    name: str
    subject: str
    queue: str
    metadata: Mapping[str, str]
    stats: Callable[[], EndpointStats]

    def info(self) -> dict[str, Any]:
        return {**self._place(), "metadata": dict(self.metadata)}

    def told_stats(self) -> dict[str, Any]:
        stats = self.stats()
        return {
            **self._place(),
            "num_requests": stats.requests,
            "num_errors": stats.errors,
            "last_error": stats.last_error,
            "processing_time": stats.processing_ns,
            "average_processing_time": stats.processing_ns // max(stats.requests, 1),
            "data": dict(stats.data),
        }

    def _place(self) -> dict[str, Any]:
        return {"name": self.name, "subject": self.subject, "queue_group": self.queue}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceIdentity:
    """name: of `[A-Za-z0-9_-]`. instance: one start of it. version: a semantic version."""

    name: str
    instance: str
    version: str
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class MicroService:
    """Answers questions about a service between `start` and `stop`. endpoints: those that there are now."""

    def __init__(self, bus: Bus, identity: ServiceIdentity, endpoints: Callable[[], Sequence[Endpoint]]) -> None:
        self._bus = bus
        self._identity = identity
        self._endpoints = endpoints
        self._started = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Raises BusError."""
        answers = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}
        name, instance = self._identity.name, self._identity.instance
        for verb, answer in answers.items():
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{instance}"):
                self._subscriptions.append(await self._bus.subscribe(subject, self._responder(answer)))

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions = []

    def _responder(self, answer: Callable[[], dict[str, Any]]) -> Callable[[CoreMessage], None]:
        def respond(request: CoreMessage) -> None:
            if request.reply:
                self._bus.send(request.reply, orjson.dumps(answer()))

        return respond

    def _told(self, kind: str) -> dict[str, Any]:
        own = self._identity
        return {
            "type": f"{_TYPE}.{kind}_response",
            "name": own.name,
            "id": own.instance,
            "version": own.version,
            "metadata": dict(own.metadata),
        }

    def _ping(self) -> dict[str, Any]:
        return self._told("ping")

    def _info(self) -> dict[str, Any]:
        endpoints = [endpoint.info() for endpoint in self._endpoints()]
        return {**self._told("info"), "description": self._identity.description, "endpoints": endpoints}

    def _stats(self) -> dict[str, Any]:
        endpoints = [endpoint.told_stats() for endpoint in self._endpoints()]
        return {**self._told("stats"), "started": self._started, "endpoints": endpoints}


def error_headers(code: int, text: str) -> Headers:
    """Return the headers of a service error; of the text, what fits into one line."""
    line = " ".join(text.split())
    return {ERROR_CODE_HEADER: str(code), ERROR_HEADER: line[:ERROR_CHARACTERS] or str(code)}
