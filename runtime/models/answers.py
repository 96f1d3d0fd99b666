"""What a host's answer says. Pure: a message with its body unpacked in, an `Ending` out."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from runtime.bus.core import Headers
from runtime.errors import AccessError, BusClosedError, BusUnavailableError, DecodeError, KrtError, NoRespondersError
from runtime.models.results import Ending, Reason
from runtime.models.values import from_variant
from runtime.models.wire import ERROR_CODE_HEADER, ERROR_HEADER, MODEL_TIME_HEADER, ServiceError, StatusCode
from runtime.proto.models import CallResponse, ResetResponse, SetupResponse

_REFUSALS = {
    ServiceError.INVALID: Reason.INVALID,
    ServiceError.REFUSED: Reason.AUTH,
    ServiceError.TOO_LARGE: Reason.INVALID,
    ServiceError.BUSY: Reason.BUSY,
    ServiceError.LATE: Reason.DEADLINE_EXCEEDED,
}
_CALL_CODES = {
    StatusCode.INVALID_ARGUMENT: Reason.INVALID,
    StatusCode.FAILED_PRECONDITION: Reason.NOT_SET_UP,
    StatusCode.BAD_IMPLEMENTATION: Reason.BAD_IMPLEMENTATION,
    StatusCode.SETUP_FAILED: Reason.SETUP_FAILED,
}
_SETUP_CODES = {
    StatusCode.SUCCESS: Reason.OK,
    StatusCode.INVALID_ARGUMENT: Reason.INVALID,
    StatusCode.FAILED_PRECONDITION: Reason.CONFLICT,
    StatusCode.BAD_IMPLEMENTATION: Reason.BAD_IMPLEMENTATION,
}
_RESET_CODES = {**_SETUP_CODES, StatusCode.FAILED_PRECONDITION: Reason.NOT_SET_UP}


def refusal(headers: Headers) -> Ending | None:
    """Return how a request has ended that was refused by its host, None for one that was answered."""
    code = headers.get(ERROR_CODE_HEADER)
    if code is None:
        return None
    text = headers.get(ERROR_HEADER, f"service error {code}")
    known = int(code) if code.isdecimal() else 0
    # Whatever else a host, or something between, has to say is no answer of the model.
    return Ending(_REFUSALS.get(known, Reason.UNAVAILABLE), text)  # type: ignore[call-overload]  # an IntEnum's number


def read_call(headers: Headers, data: bytes) -> Ending:
    """Return how a call has ended, with the model's value."""
    if (refused := refusal(headers)) is not None:
        return refused
    try:
        response = CallResponse.FromString(data)
        time_us = int(headers.get(MODEL_TIME_HEADER, "0"))
        if response.status.code == StatusCode.SUCCESS:
            return Ending(Reason.OK, "", from_variant(response.methodResponse), time_us)
    except (ProtobufError, DecodeError, ValueError) as error:
        return Ending(Reason.DECODE, str(error))
    return Ending(_CALL_CODES.get(response.status.code, Reason.MODEL_FAILED), response.status.message, None, time_us)


def read_setup(headers: Headers, data: bytes) -> Ending:
    """Return how a setup has ended."""
    return _read_status(SetupResponse, _SETUP_CODES, headers, data)


def read_reset(headers: Headers, data: bytes) -> Ending:
    """Return how a reset has ended."""
    return _read_status(ResetResponse, _RESET_CODES, headers, data)


def _read_status(kind: Any, codes: Mapping[StatusCode, Reason], headers: Headers, data: bytes) -> Ending:
    if (refused := refusal(headers)) is not None:
        return refused
    try:
        status = kind.FromString(data).status
    except ProtobufError as error:
        return Ending(Reason.SETUP_FAILED, f"the host's answer cannot be read: {error}")
    return Ending(codes.get(status.code, Reason.SETUP_FAILED), status.message)


def without_answer(error: KrtError) -> Ending:
    """Return how a request has ended that was not sent, or to which the bus has no answer."""
    match error:
        case AccessError():
            return Ending(Reason.AUTH, str(error))
        case BusClosedError():
            return Ending(Reason.CONNECTION_LOST, str(error))
        case NoRespondersError() | BusUnavailableError():
            return Ending(Reason.UNAVAILABLE, str(error))
        case _:
            return Ending(Reason.INVALID, str(error))
