"""From a call's bytes to the inputs of a workflow, and from its answer to the bytes of the declared type."""

from typing import Any

from google.protobuf import any_pb2, empty_pb2, json_format, wrappers_pb2
from google.protobuf.message import DecodeError

from runtime.drivers.grpc.routes import Method
from runtime.errors import PredictionError
from runtime.message import ReplyOutcome
from runtime.payload import BYTES_TYPE, TYPE_PREFIX

# What json_format raises for values that do not fit; it lets some TypeErrors of its own code through.
_JSON_FAULTS = (json_format.ParseError, TypeError)


def read_inputs(method: Method, request: bytes, *, as_json: bool) -> Any:
    """Return what the workflow gets: the message itself in an `Any`, or as JSON, with the field names of the file.

    In JSON every field is there, those without presence with their default. Raises PredictionError `invalid` for bytes
    that are no message of the method's type.
    """
    try:
        message = method.takes.FromString(request)
        if as_json:
            return json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
                descriptor_pool=_pool(method),
            )
    except (DecodeError, json_format.Error, TypeError) as error:  # an Any may hold a type that nobody knows
        detail = f"{method} takes {method.takes.DESCRIPTOR.full_name}, and the request is none: {error}"
        raise PredictionError(detail, outcome=ReplyOutcome.INVALID) from error
    # The bytes as they came: packing anew would lose what only the caller's file knows.
    return any_pb2.Any(type_url=TYPE_PREFIX + method.takes.DESCRIPTOR.full_name, value=request)


def write_answer(method: Method, value: Any) -> bytes:
    """Return the bytes of the workflow's answer, which is as `payload.decode_value` gives it.

    Raises PredictionError `failed` naming both types, for an answer of another type and for none.
    """
    returns = method.returns.DESCRIPTOR.full_name
    if isinstance(value, any_pb2.Any):
        return _checked(method, value)
    if isinstance(value, bytes):
        if returns != BYTES_TYPE:
            raise _mismatch(method, "bytes")
        return wrappers_pb2.BytesValue(value=value).SerializeToString()
    if value is None:
        if returns != empty_pb2.Empty.DESCRIPTOR.full_name:
            raise _mismatch(method, "nothing")
        return b""
    try:
        answer = json_format.ParseDict(value, method.returns(), descriptor_pool=_pool(method))
    except _JSON_FAULTS as error:
        raise _mismatch(method, f"JSON that does not fit: {error}") from error
    return answer.SerializeToString()


def _checked(method: Method, answer: any_pb2.Any) -> bytes:
    name = answer.type_url.rpartition("/")[2]
    if name != method.returns.DESCRIPTOR.full_name:
        raise _mismatch(method, name or "a message without a type")
    try:
        method.returns.FromString(answer.value)
    except DecodeError as error:
        raise _mismatch(method, f"bytes that are none: {error}") from error
    return answer.value


def _mismatch(method: Method, answered: str) -> PredictionError:
    detail = f"{method} returns {method.returns.DESCRIPTOR.full_name}, and the workflow answered {answered}"
    return PredictionError(detail, outcome=ReplyOutcome.FAILED)


def _pool(method: Method) -> Any:
    return method.takes.DESCRIPTOR.file.pool
