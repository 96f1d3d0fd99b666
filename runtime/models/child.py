"""What runs in the model's process: makes the instance, calls it, makes it anew. Its parent's side is `host.py`.

A request is a word, a line break and a body: `start` and JSON, or an action of `wire.py` and its message; the answer is
the message of its response. Requests come one at a time.
"""

import asyncio
import atexit
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from runtime.errors import DecodeError, EncodingError, InvalidCoordinatorUsageError
from runtime.models import wire
from runtime.models.search import USER_FAILURES, RefusedError, describe, find_class, full_name, import_base
from runtime.models.values import plain_arguments, to_variant
from runtime.models.wire import StatusCode
from runtime.proto.models import CallRequest, CallResponse, ResetResponse, SetupRequest, SetupResponse, Status

log = logging.getLogger(__name__)

# Names this process as the job of a worker.
JOB = f"{__name__}:make_answer"
START = "start"
# Characters of an error's text in an answer; all of it is in the log.
MAX_TEXT = 4000

_SUCCESS = Status(code=StatusCode.SUCCESS)


def make_answer() -> Callable[[bytes], bytes]:
    """Return what answers the requests of the host."""
    # What the model logs becomes lines of the host's log, too.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    child = ModelChild()
    atexit.register(child.close)
    return child.answer


def request(action: str, body: bytes) -> bytes:
    """Return the request that `ModelChild.answer` reads."""
    return action.encode() + b"\n" + body


class ModelChild:
    """The instance of a model, and what it was made of."""

    def __init__(self) -> None:
        self._code = Path()
        self._class_name = ""
        self._kind: type[Any] | None = None
        self._setup: Any = None
        self._instance: Any = None
        # One loop for all coroutine methods: what a model keeps between calls may belong to it.
        self._runner = asyncio.Runner()
        # Method and keyword that were dropped, and told of.
        self._dropped: set[tuple[str, str]] = set()

    def answer(self, data: bytes) -> bytes:
        action, _, body = data.partition(b"\n")
        respond = {
            START: self._start,
            wire.SETUP: self._answer_setup,
            wire.RESET: self._answer_reset,
            wire.CALL: self._answer_call,
        }[action.decode()]
        return respond(body)

    def close(self) -> None:
        """End the loop of coroutine methods, with what they have left on it."""
        self._runner.close()

    def _start(self, body: bytes) -> bytes:
        told = json.loads(body)
        self._code, self._class_name = Path(told["code"]), told["class_name"]
        sys.path.insert(0, str(self._code))
        return b""

    # --- setup ---

    def _answer_setup(self, body: bytes) -> bytes:
        return _encoded(SetupResponse(status=_status_of(lambda: self._set_up(SetupRequest.FromString(body)))))

    def _answer_reset(self, body: bytes) -> bytes:
        return _encoded(ResetResponse(status=_status_of(self._reset)))

    def _set_up(self, setup: Any) -> None:
        base = import_base(setup.className)
        self._kind = find_class(base, self._code, self._class_name)
        self._make(setup)
        log.info("the model is a %s", full_name(self._kind))

    def _reset(self) -> None:
        if self._setup is None:
            raise RefusedError(StatusCode.FAILED_PRECONDITION, "there is no instance to reset; set the model up first")
        # Two of them may be more than there is memory for.
        self._instance = None
        self._make(self._setup)

    def _make(self, setup: Any) -> None:
        assert self._kind is not None
        args, kwargs = plain_arguments(setup.instanceArguments, setup.instanceKwArguments)
        self._instance = self._setup = None
        try:
            self._instance = self._kind(*args, **self._accepted(self._kind, full_name(self._kind), kwargs))
        except USER_FAILURES as error:
            traceback.print_exc()
            raise RefusedError(
                StatusCode.SETUP_FAILED, f"{full_name(self._kind)}() failed: {describe(error)}"
            ) from error
        self._setup = setup

    # --- call ---

    def _answer_call(self, body: bytes) -> bytes:
        results: list[Any] = []
        status = _status_of(lambda: results.append(self._call(CallRequest.FromString(body))))
        return _encoded(CallResponse(status=status, methodResponse=results[0] if results else None))

    def _call(self, call: Any) -> Any:
        """Return the Variant of what a method returns."""
        if self._setup is None:
            raise RefusedError(StatusCode.FAILED_PRECONDITION, "the model has no instance; set it up first")
        name = call.methodName
        method = self._method(name)
        args, kwargs = plain_arguments(call.methodArguments, call.methodKwArguments)
        try:
            result = method(*args, **self._accepted(method, f"{name}()", kwargs))
            if inspect.isawaitable(result):
                result = self._runner.run(_awaited(result))
            return to_variant(result)
        except EncodingError as error:
            raise RefusedError(StatusCode.MODEL_FAILED, f"the result of {name}() cannot be sent: {error}") from error
        except USER_FAILURES as error:
            traceback.print_exc()
            raise RefusedError(StatusCode.MODEL_FAILED, describe(error)) from error

    def _method(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not name.isidentifier():
            kind = full_name(type(self._instance))
            raise RefusedError(StatusCode.INVALID_ARGUMENT, f'"{name}" is no name of a public method of {kind}')
        method: Any = getattr(self._instance, name, None)
        if not callable(method):
            kind = full_name(type(self._instance))
            raise RefusedError(StatusCode.BAD_IMPLEMENTATION, f"{kind} has no method {name}()")
        return method  # type: ignore[no-any-return]  # just checked

    def _accepted(self, function: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return those keywords that a function takes; the first time one is dropped, a line says so."""
        if not kwargs:
            return {}
        taken = {keyword: value for keyword, value in kwargs.items() if _takes(function, keyword)}
        for keyword in kwargs.keys() - taken.keys():
            if (name, keyword) not in self._dropped:
                self._dropped.add((name, keyword))
                log.warning("%s takes no keyword %s, which is dropped", name, keyword)
        return taken


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in, which tells nothing
        return True
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return True
    found = parameters.get(keyword)
    return found is not None and found.kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


async def _awaited(result: Any) -> Any:
    return await result


def _status_of(work: Callable[[], None]) -> Any:
    """Do the work and return how it went as a Status."""
    try:
        work()
    except RefusedError as error:
        return _status(error.code, str(error))
    except (DecodeError, InvalidCoordinatorUsageError, ProtobufError) as error:
        return _status(StatusCode.INVALID_ARGUMENT, str(error))
    return _SUCCESS


def _status(code: StatusCode, text: str) -> Any:
    # Half a surrogate pair in a model's message has no form in protobuf.
    return Status(code=code, message=text[:MAX_TEXT].encode(errors="replace").decode())


def _encoded(response: Any) -> bytes:
    data: bytes = response.SerializeToString()
    return data


def environment(code: Path, resources: Path | None) -> dict[str, str]:
    """Return where a model finds its folders, under the names that the model runner's own have."""
    found = {"CODE_DIRECTORY": str(code)}
    return found | {"RESOURCE_DIRECTORY": str(resources)} if resources is not None else found
