"""The way of one call: read, admit, predict, answer; and a status for every way in which it can end.

Each call has a request id of its own, and answers are matched by it alone: what happens to one call no other sees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import grpc

from runtime.drivers.base import RestrictedInferenceProcess
from runtime.drivers.grpc.gate import Gate
from runtime.drivers.grpc.routes import Method
from runtime.drivers.grpc.values import read_inputs, write_answer
from runtime.errors import BusClosedError, MessageError, MessageTooLargeError, PredictionError
from runtime.message import ReplyOutcome, new_request_id

# Metadata of a call: state id as text, or as bytes of UTF-8; and what is passed on to the handlers as it is.
STATE_ID, STATE_ID_BYTES, TRACE = "krt-state-id", "krt-state-id-bin", "traceparent"
# Header in which the handlers find the name of the method.
METHOD_HEADER = "method"
# Trailing metadata of every answer.
REQUEST_ID, OUTCOME = "krt-request-id", "krt-outcome"

MAX_STATE_ID_BYTES = 256
# Bytes of a status text. It travels percent-encoded, three times as long at worst, among at most 8 KiB of trailers:
# a longer one would end the call with RESOURCE_EXHAUSTED in place of its own status.
MAX_DETAIL_BYTES = 2_000

CODES: Mapping[str, grpc.StatusCode] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "too-large": grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself says
    "unknown": grpc.StatusCode.NOT_FOUND,
    "failed": grpc.StatusCode.INTERNAL,
    "bad_implementation": grpc.StatusCode.INTERNAL,
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "cancelled": grpc.StatusCode.CANCELLED,
    "unsupported": grpc.StatusCode.FAILED_PRECONDITION,
    "auth": grpc.StatusCode.UNAUTHENTICATED,
}

Context = grpc.aio.ServicerContext[bytes, bytes]
Metadata = Sequence[tuple[str, "str | bytes"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for calls now. timeout_s: at most; a client may ask for less. max_in_flight: of one workflow."""

    timeout_s: float
    max_in_flight: int


class MethodCalls:
    """Answers the calls of one method."""

    def __init__(
        self,
        method: Method,
        inference: RestrictedInferenceProcess,
        gate: Gate,
        terms: Callable[[], Terms],
        *,
        as_json: bool,
    ) -> None:
        self._method = method
        self._inference = inference
        self._gate = gate
        self._terms = terms
        self._as_json = as_json

    async def answer(self, request: bytes, context: Context) -> bytes:
        """Answer one call; called by gRPC, which cancels it when the client is gone or its deadline has come."""
        request_id = new_request_id()
        try:
            answer = await self._answer(request, context, request_id)
        except PredictionError as error:
            await _abort(context, error, request_id)
        context.set_trailing_metadata(_trailing(request_id, ReplyOutcome.OK))
        return answer

    async def _answer(self, request: bytes, context: Context, request_id: str) -> bytes:
        terms = self._terms()
        metadata = tuple(context.invocation_metadata() or ())
        inputs = read_inputs(self._method, request, as_json=self._as_json)
        state_id = read_state_id(metadata)
        await self._gate.admit(terms.max_in_flight)
        try:
            prediction = self._inference.predict(
                inputs,
                state_id,
                timeout=_timeout_s(context, terms.timeout_s),
                headers={METHOD_HEADER: self._method.name, **_passed_on(metadata)},
                request_id=request_id,
            )
        except MessageTooLargeError as error:
            raise PredictionError(str(error), outcome=ReplyOutcome.TOO_LARGE) from error
        except MessageError as error:  # without a form on the wire
            raise PredictionError(str(error), outcome=ReplyOutcome.INVALID) from error
        except BusClosedError as error:
            raise PredictionError(str(error), outcome=ReplyOutcome.UNAVAILABLE) from error
        return write_answer(self._method, await prediction)


def read_state_id(metadata: Metadata) -> str:
    """Return the call's state id, "" for none. Raises PredictionError `invalid`."""
    given = dict(metadata)
    raw = given.get(STATE_ID_BYTES, given.get(STATE_ID, ""))
    data = raw if isinstance(raw, bytes) else raw.encode()
    if len(data) <= MAX_STATE_ID_BYTES:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    detail = f"the state id is no text of at most {MAX_STATE_ID_BYTES} bytes"
    raise PredictionError(detail, outcome=ReplyOutcome.INVALID)


def clip(detail: str) -> str:
    """Return the text, cut off where it is longer than a status may be."""
    data = detail.encode(errors="replace")
    return detail if len(data) <= MAX_DETAIL_BYTES else data[:MAX_DETAIL_BYTES].decode(errors="ignore") + " …"


def _timeout_s(context: Context, limit_s: float) -> float:
    """Return the seconds that the request has. Raises PredictionError `timeout` when they are over."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return limit_s
    if remaining_s <= 0:
        raise PredictionError("the deadline has passed before anything was sent", outcome=ReplyOutcome.TIMEOUT)
    return min(limit_s, remaining_s)


def _passed_on(metadata: Metadata) -> dict[str, str]:
    return {name: value for name, value in metadata if name == TRACE and isinstance(value, str)}


async def _abort(context: Context, error: PredictionError, request_id: str) -> NoReturn:
    code = CODES.get(error.outcome, grpc.StatusCode.INTERNAL)
    await context.abort(code, clip(error.detail), _trailing(request_id, error.outcome))


def _trailing(request_id: str, outcome: str) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID, request_id), (OUTCOME, str(outcome)))
