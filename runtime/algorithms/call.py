"""One call of an algorithm: its body to arguments, the function, its result to JSON; failures become values.

Runs in worker threads and in worker processes, never on the loop that answers requests, but for the body of a
coroutine function.
"""

import asyncio
import contextlib
import inspect
import traceback
from collections.abc import Awaitable
from typing import Any

import orjson
import pydantic

from runtime.algorithms.discover import Algorithm
from runtime.algorithms.wire import TRACEBACK_CHARACTERS, Answer, Failure, Fault, Outcome, result_body
from runtime.errors import EncodeError
from runtime.payload import encode_json

# Name of exceptions by which algorithms say that their input is at fault, their own or a base's.
REQUEST_ERROR = "RequestError"


def perform(algorithm: Algorithm, body: bytes) -> Answer | Awaitable[Any]:
    """Call the function, and return the answer; of a coroutine function, what is to be awaited first."""
    try:
        by_position, by_name = algorithm.signature.arguments(_json_object(body))
    except pydantic.ValidationError as error:
        return _invalid([_fault(each) for each in error.errors(include_url=False, include_input=False)])
    except ValueError as error:
        return _invalid([Fault("", str(error))])
    try:
        result = algorithm.function(*by_position, **by_name)
    except BaseException as error:  # the user's code: sys.exit in it must not end the runner
        return failure_of(error)
    return result if inspect.isawaitable(result) else answer_of(result)


async def awaited(result: Awaitable[Any]) -> Any:
    """Return what a coroutine function returns, or the Failure that it ends in; only a cancellation of ours goes on."""
    try:
        return await result
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return failure_of(error)
    except BaseException as error:  # as above
        return failure_of(error)


def answer_of(result: Any) -> Answer:
    """Return the answer with a result, which is no JSON if the algorithm is not what it should be."""
    if isinstance(result, Failure):
        return result
    try:
        return result_body(encode_json(result))
    except EncodeError as error:
        return Failure(outcome=Outcome.BAD_IMPLEMENTATION, detail=f"the result is no JSON: {error}")
    except Exception as error:  # a class of the user's that cannot be read
        return Failure(outcome=Outcome.BAD_IMPLEMENTATION, detail=f"the result is no JSON: {_described(error)}")


def failure_of(error: BaseException) -> Failure:
    """Return what the caller is told of an exception."""
    if any(base.__name__ == REQUEST_ERROR for base in type(error).__mro__):
        return Failure(outcome=Outcome.INVALID, detail=_request_error(error))
    if isinstance(error, SystemExit):
        return Failure(outcome=Outcome.FAILED, detail=f"the algorithm has called sys.exit: exit code {_code(error)}")
    # From the user's frame on: the one above it is `perform` or `awaited`.
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, trace))
    return Failure(outcome=Outcome.FAILED, detail=_described(error), traceback=text[-TRACEBACK_CHARACTERS:])


def _json_object(body: bytes) -> bytes:
    """Return the body. Raises ValueError for what is no JSON object; pydantic would take NaN."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"the body is no JSON object of arguments, but {_json_type(value)}")
    return body


def _json_type(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _invalid(faults: list[Fault]) -> Failure:
    detail = "; ".join(f"{fault.path}: {fault.message}" if fault.path else fault.message for fault in faults)
    return Failure(outcome=Outcome.INVALID, detail=detail, errors=faults)


def _fault(told: Any) -> Fault:
    return Fault(".".join(map(str, told["loc"])), told["msg"])


def _request_error(error: BaseException) -> str:
    status = None
    with contextlib.suppress(Exception):  # properties of other people's exceptions may raise
        status = error.response.status_code  # type: ignore[attr-defined]  # where it has one
    return str(error) or _described(error) if status is None else f"Error fetching request image, received {status}"


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a class of the user's
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _code(error: SystemExit) -> int:
    return 0 if error.code is None else error.code if isinstance(error.code, int) else 1
