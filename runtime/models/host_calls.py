"""What a model host does with setups, resets and calls: bodies, deadlines, one at a time, answers that are repeated."""

import asyncio
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.bodies import Body, pack, unpack
from runtime.clock import Clock
from runtime.errors import BusError, DecodeError, MessageTooLargeError, WorkerEndedError
from runtime.models import wire
from runtime.models.call_memory import CallMemory
from runtime.models.model_process import ModelProcess, RefusalError
from runtime.models.wire import ServiceError, StatusCode
from runtime.proto.models import CallResponse, ResetResponse, SetupRequest, SetupResponse, Status
from runtime.spec import names
from runtime.spec.model_host import ModelHostSpec

# Seconds that a request without a deadline has.
DEFAULT_LIMIT_S = 60.0
# Digits of a unix time in ms that is no mistake.
MAX_DEADLINE_DIGITS = 15
# Part of a limited memory that the body of a request may take: it is there as frame, message and value at once.
BODY_SHARE = 4

_RESPONSES = {wire.SETUP: SetupResponse, wire.RESET: ResetResponse, wire.CALL: CallResponse}


class HostCalls:
    """Answers those requests that reach the model's process."""

    def __init__(
        self, process: ModelProcess, bus: Bus, clock: Clock, spec: ModelHostSpec, *, max_claim_bytes: int
    ) -> None:
        self._process = process
        self._bus = bus
        self._clock = clock
        self._store = names.model_store(spec.cluster)
        self._kill_after_s = spec.kill_after_s
        self._max_claim_bytes = max_claim_bytes
        self._max_body_bytes = min(max_claim_bytes, spec.memory_bytes // BODY_SHARE or max_claim_bytes)
        self._memory: CallMemory[Body] = CallMemory()
        # Number of the instance that was set up, and the base class that it was set up for.
        self._held: tuple[int, str] = (0, "")

    async def answer(self, action: str, request: CoreMessage) -> Body:
        """Return what answers a setup, a reset or a call. Raises RefusalError."""
        deadline_s = self._deadline_s(request)
        try:
            if action == wire.SETUP:
                return await self._set_up(request, deadline_s)
            if action == wire.RESET:
                return await self._reset(request, deadline_s)
            body = await self._call(request, deadline_s)
        except (DecodeError, ProtobufError) as error:
            raise RefusalError(ServiceError.INVALID, f"the request cannot be read: {error}") from error
        except BusError as error:
            raise RefusalError(ServiceError.UNAVAILABLE, f"the request cannot be read: {error}") from error
        self._check_in_time(deadline_s, "the call is done, and its caller is gone")
        return body

    async def _set_up(self, request: CoreMessage, deadline_s: float) -> Body:
        # Read before it is asked for: this answer needs no process, which may be busy.
        data = await self._unpacked(request)
        class_name = SetupRequest.FromString(data).className
        if (held := self._answer_of_held(class_name)) is not None:
            return await self._packed(held)
        with self._process.turn(self._limit_s(deadline_s)):
            answer = await self._ask(wire.SETUP, data)
        if SetupResponse.FromString(answer).status.code == StatusCode.SUCCESS:
            self._held = (self._process.instance, class_name)
        return await self._packed(answer)

    def _answer_of_held(self, class_name: str) -> bytes | None:
        """Return the answer to a setup where there is an instance; None without one."""
        instance, held = self._held
        if not held or instance != self._process.instance or not self._process.is_running:
            return None
        if held == class_name:
            return _response(wire.SETUP, StatusCode.SUCCESS, "")
        return _response(
            wire.SETUP,
            StatusCode.FAILED_PRECONDITION,
            f"the model was set up as a {held}; stop it before it becomes another",
        )

    async def _reset(self, request: CoreMessage, deadline_s: float) -> Body:
        with self._process.turn(self._limit_s(deadline_s)):
            answer = await self._ask(wire.RESET, b"")
        code = ResetResponse.FromString(answer).status.code
        if code != StatusCode.FAILED_PRECONDITION:
            self._process.note_new_instance()
            self._held = (self._process.instance, self._held[1]) if code == StatusCode.SUCCESS else (0, "")
        return await self._packed(answer)

    async def _call(self, request: CoreMessage, deadline_s: float) -> Body:
        call_id = request.headers.get(wire.CALL_ID_HEADER, "")
        if not call_id:
            return (await self._run(request, deadline_s))[0]
        if (known := self._memory.recall(call_id)) is not None:
            return await asyncio.shield(known)
        expected = self._memory.expect(call_id)
        try:
            body, has_run = await self._run(request, deadline_s)
        except Exception as error:
            self._memory.forget(call_id)
            expected.set_exception(error)
            expected.exception()  # perhaps nobody has joined it
            raise
        if not has_run:
            self._memory.forget(call_id)
        expected.set_result(body)
        self._memory.trim()
        return body

    async def _run(self, request: CoreMessage, deadline_s: float) -> tuple[Body, bool]:
        """Return the answer to a call, and whether the model was called."""
        with self._process.turn(self._limit_s(deadline_s)):
            data = await self._unpacked(request)
            self._check_in_time(deadline_s, "the deadline has passed before the call could start")
            started_s = self._clock.monotonic()
            answer = await self._ask(wire.CALL, data)
            took_us = round((self._clock.monotonic() - started_s) * 1_000_000)
            has_run = CallResponse.FromString(answer).status.code != StatusCode.FAILED_PRECONDITION
        body = await self._packed(answer)
        return Body(body.data, {**body.headers, wire.MODEL_TIME_HEADER: str(took_us)}), has_run

    async def _ask(self, action: str, data: bytes) -> bytes:
        try:
            return await self._process.ask(action, data)
        except WorkerEndedError as error:
            if self._process.is_closing:
                raise RefusalError(ServiceError.UNAVAILABLE, f"the model was stopped during the {action}") from error
            code = StatusCode.MODEL_FAILED if action == wire.CALL else StatusCode.SETUP_FAILED
            return _response(action, code, f"the model has not answered the {action}: {error}")

    async def _unpacked(self, request: CoreMessage) -> bytes:
        return await unpack(self._bus, self._store, request.data, request.headers, max_bytes=self._max_body_bytes)

    async def _packed(self, answer: bytes) -> Body:
        """Return what is sent. Whatever goes wrong is an answer too: the model has run, and must not run again."""
        try:
            return await pack(self._bus, self._store, answer, max_claim_bytes=self._max_claim_bytes)
        except MessageTooLargeError as error:
            return Body(_response(wire.CALL, StatusCode.MODEL_FAILED, f"the result cannot be sent: {error}"), {})
        except BusError as error:
            return Body(_response(wire.CALL, StatusCode.UNKNOWN, f"the result cannot be stored: {error}"), {})

    # --- deadlines ---

    def _deadline_s(self, request: CoreMessage) -> float:
        """Return until when the caller waits, in seconds of unix time. Raises RefusalError, also when that is past."""
        text = request.headers.get(wire.DEADLINE_HEADER, "")
        if not text:
            return self._now_s() + DEFAULT_LIMIT_S
        if not text.isdecimal() or len(text) > MAX_DEADLINE_DIGITS:
            raise RefusalError(ServiceError.INVALID, f"{wire.DEADLINE_HEADER} is {text!r}, and no unix time in ms")
        deadline_s = int(text) / 1000
        self._check_in_time(deadline_s, "the deadline has passed")
        return deadline_s

    def _check_in_time(self, deadline_s: float, text: str) -> None:
        if self._now_s() >= deadline_s:
            raise RefusalError(ServiceError.LATE, text)

    def _limit_s(self, deadline_s: float) -> float:
        """Return the seconds after which the process is killed."""
        return deadline_s - self._now_s() + self._kill_after_s

    def _now_s(self) -> float:
        return self._clock.time_ns() / 1e9


def _response(action: str, code: StatusCode, text: str) -> bytes:
    response: Any = _RESPONSES[action](status=Status(code=code, message=text))
    data: bytes = response.SerializeToString()
    return data
