"""A model host without a process: speaks the wire on any bus, and does what a test tells it to.

host = FakeHost(bus, clock, "m1", {"predict": lambda: 7})
await host.start()
...
assert host.called == ["predict"]
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from runtime.bus.base import Bus, CoreMessage, Subscription
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.clock import Clock
from runtime.models import wire
from runtime.models.values import plain_arguments, to_variant
from runtime.models.wire import HostRecord, HostState, ServiceError, StatusCode
from runtime.proto.models import CallRequest, CallResponse, ResetResponse, SetupRequest, SetupResponse, Status
from runtime.spec import names

CLUSTER = "birds"

# What a method returns in place of a value.
HANG = object()


class Refused(Exception):
    """Raised by a method, or set as `refusal`: the host refuses the request."""

    def __init__(self, code: ServiceError | int, text: str = "refused") -> None:
        super().__init__(text)
        self.code = int(code)


class Answered(Exception):
    """Raised by a method: the status that the host answers with."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(text)
        self.code = code


Methods = Mapping[str, Callable[..., Any]]


class FakeHost:
    """One deployment of a model. Everything that was asked can be looked at."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        model_id: str,
        methods: Methods | None = None,
        *,
        deployment: str = "d1",
        started_ms: int | None = None,
        clock_is_ahead_ms: int = 0,
        refusals: Mapping[str, "Refused"] | None = None,
    ) -> None:
        self.model_id = model_id
        self.deployment = deployment
        self.methods: dict[str, Callable[..., Any]] = dict(methods or {"predict": lambda: model_id})
        self.name = model_id.upper()
        self.infos: dict[str, Any] = {}
        self.state = HostState.RUNNING
        self.instance = 1
        self.reason = ""
        self.is_set_up = False
        self.setup_status: tuple[str, str] = (StatusCode.SUCCESS, "")
        # Refuses or leaves unanswered whatever is asked of these actions.
        self.refusals: dict[str, Refused] = dict(refusals or {})
        self.silent: set[str] = set()
        self.child_alive = True
        self.setups: list[Any] = []
        self.resets = 0
        self.called: list[str] = []
        self.arguments: list[tuple[list[Any], dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        # Every call as it came, unanswered ones as well.
        self.requests: list[CoreMessage] = []
        self.asked = asyncio.Event()
        self.probes = 0
        self.reports: list[dict[str, Any]] = []
        self.bus = bus
        self._clock = clock
        self._ahead_ms = clock_is_ahead_ms
        self._started_ms = self._now_ms() if started_ms is None else started_ms
        self._subscription: Subscription | None = None
        key = names.presence_key(names.MODEL, CLUSTER, model_id, deployment)
        self._heartbeat = Heartbeat(bus, names.PRESENCE_BUCKET, key, self._record, clock)

    async def start(self) -> "FakeHost":
        """Answer from now on, and be present once this returns."""
        subject = names.model_subject(CLUSTER, self.model_id, self.deployment, ">")
        self._subscription = await self.bus.subscribe(subject, self._on_request)
        await self._heartbeat.__aenter__()
        await self._heartbeat.beat()
        return self

    async def tell(self, state: HostState | None = None) -> None:
        """Tell the state, and whatever else has changed, now."""
        self.state = state or self.state
        await self._heartbeat.beat()

    async def stop(self) -> None:
        """Leave in order."""
        await self.unsubscribe()
        await self._heartbeat.__aexit__()

    async def unsubscribe(self) -> None:
        """Answer no more; the presence stays."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def restart_child(self) -> None:
        """Lose the instance and have another process, without ever being seen recovering."""
        self.is_set_up = False
        self.instance += 1

    # --- answers ---

    def _on_request(self, request: CoreMessage) -> None:
        action = request.subject.rpartition(".")[2]
        if action == wire.CALL:
            self.requests.append(request)
            self.asked.set()
        if action in self.silent:
            return
        try:
            if action in self.refusals:
                raise self.refusals[action]
            answer = getattr(self, f"_on_{action}")(request)
        except Refused as refused:
            headers = {wire.ERROR_CODE_HEADER: str(refused.code), wire.ERROR_HEADER: str(refused)}
            self.bus.send(request.reply, b"", headers=headers)
            return
        if answer is not HANG:
            self.bus.send(
                request.reply, answer, headers={wire.MODEL_TIME_HEADER: "1500"} if action == wire.CALL else {}
            )

    def _on_setup(self, request: CoreMessage) -> Any:
        self.setups.append(SetupRequest.FromString(request.data))
        code, text = self.setup_status
        self.is_set_up = code == StatusCode.SUCCESS
        return SetupResponse(status=Status(code=code, message=text)).SerializeToString()

    def _on_reset(self, _: CoreMessage) -> Any:
        self.resets += 1
        return ResetResponse(status=Status(code=StatusCode.SUCCESS)).SerializeToString()

    def _on_health(self, _: CoreMessage) -> Any:
        self.probes += 1
        told = {"state": self.state, "instance": self.instance, "busy_for_ms": 0, "child_alive": self.child_alive}
        return json.dumps(told).encode()

    def _on_report(self, request: CoreMessage) -> Any:
        self.reports.append(json.loads(request.data))
        return json.dumps({"accepted": True, "action": "quarantined"}).encode()

    def _on_call(self, request: CoreMessage) -> Any:
        self.headers.append(request.headers)
        self.bodies.append(request.data)
        asked = CallRequest.FromString(request.data)
        self.called.append(asked.methodName)
        try:
            if not self.is_set_up:
                raise Answered(StatusCode.FAILED_PRECONDITION, "there is no instance")
            if asked.methodName not in self.methods:
                raise Answered(StatusCode.BAD_IMPLEMENTATION, f"no method {asked.methodName}")
            args, kwargs = plain_arguments(asked.methodArguments, asked.methodKwArguments)
            self.arguments.append((args, kwargs))
            value = self.methods[asked.methodName](*args, **kwargs)
            if value is HANG:
                return HANG
            response = CallResponse(status=Status(code=StatusCode.SUCCESS), methodResponse=to_variant(value))
        except Answered as answered:
            response = CallResponse(status=Status(code=answered.code, message=str(answered)))
        except (ValueError, ZeroDivisionError) as error:
            response = CallResponse(
                status=Status(code=StatusCode.MODEL_FAILED, message=f"{type(error).__name__}: {error}")
            )
        return response.SerializeToString()

    # --- presence ---

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000 + self._ahead_ms

    def _record(self) -> ServiceRecord:
        told = HostRecord(
            cluster=CLUSTER,
            model_id=self.model_id,
            deployment=self.deployment,
            name=self.name,
            state=self.state,
            infos=self.infos,
            instance=self.instance,
            started_ms=self._started_ms,
            now_ms=self._now_ms(),
            host="here",
            pid=1,
            reason=self.reason,
        )
        return ServiceRecord(
            kind=names.MODEL,
            name=self.model_id,
            instance=self.deployment,
            version="1",
            host="here",
            pid=1,
            started_ms=self._started_ms,
            metadata=told.metadata(),
        )
