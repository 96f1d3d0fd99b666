"""What a coordinator asks for, checked and encoded before anything is sent.

| argument | form |
|---|---|
| `arguments` | `([Argument, …], [KwArgument, …])`, or a function of the model runner that returns one |
| `args`, `kwargs` | plain values instead, encoded by their type; Arguments and KwArguments are taken as well |
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime.errors import InvalidCoordinatorUsageError
from runtime.models.values import Argument, arguments_of, check_arguments
from runtime.proto.models import CallRequest

# Arguments and KwArguments; their classes are made at run time.
ArgumentLists = tuple[Sequence[Any], Sequence[Any]]
# A runner in, `ArgumentLists` out.
ArgumentFunction = Callable[[Any], ArgumentLists]
Arguments = ArgumentLists | ArgumentFunction

_CLASS_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class CallRequests:
    """The requests of one call. Arguments that all models share are checked and encoded once, and at once."""

    def __init__(self, method_name: str, arguments: Arguments) -> None:
        """Raises InvalidCoordinatorUsageError, EncodingError."""
        if not isinstance(method_name, str) or not method_name.isidentifier():
            raise InvalidCoordinatorUsageError(f"{method_name!r} is no name of a method")
        if inspect.iscoroutinefunction(arguments):
            raise InvalidCoordinatorUsageError(
                "the function of the arguments is called for each model; make it a `def`"
            )
        self._method_name = method_name
        self._function = arguments if callable(arguments) else None
        self._shared = b"" if callable(arguments) else self._encode(arguments)

    @property
    def are_shared(self) -> bool:
        """Whether all models get the same request."""
        return self._function is None

    def body_for(self, model: Any) -> bytes:
        """Return the request for one model. Raises whatever the function of the arguments raises, or makes wrong."""
        return self._shared if self._function is None else self._encode(self._function(model))

    def _encode(self, arguments: ArgumentLists) -> bytes:
        args, kwargs = _pair(arguments)
        args, kwargs = _lists(args, kwargs)
        request = CallRequest(methodName=self._method_name, methodArguments=args, methodKwArguments=kwargs)
        data: bytes = request.SerializeToString()
        return data


def as_arguments(
    arguments: Arguments | None, args: Sequence[Any], kwargs: Mapping[str, Any] | Sequence[Any]
) -> Arguments:
    """Return the arguments of a call, in whichever way they were given. Raises InvalidCoordinatorUsageError."""
    if arguments is None:
        return args or (), kwargs or ()  # type: ignore[return-value]  # read by `_lists`, which knows both forms
    if args or kwargs:
        raise InvalidCoordinatorUsageError("give either arguments=, or args= and kwargs=")
    return arguments


def typed_arguments(args: Sequence[Any], kwargs: Mapping[str, Any] | Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return Arguments and KwArguments for those, or for plain values. Raises as `CallRequests`."""
    return _lists(args or (), kwargs or ())


def check_class_name(name: str) -> None:
    """Raise InvalidCoordinatorUsageError unless `name` is of the form `module.Class`."""
    if not isinstance(name, str) or _CLASS_NAME.fullmatch(name) is None:
        raise InvalidCoordinatorUsageError(f"{name!r} is no class; give module and class, as in 'package.module.Class'")


def check_call_id(call_id: str) -> None:
    """Raise InvalidCoordinatorUsageError for an id that cannot be the value of a header."""
    if not isinstance(call_id, str) or not call_id.isascii() or (call_id and not call_id.isprintable()):
        raise InvalidCoordinatorUsageError(f"{call_id!r} cannot be the id of a call; give printable ASCII characters")


def checked_timeout_s(timeout_s: float) -> float:
    """Return a timeout, in seconds. Raises InvalidCoordinatorUsageError for one that is none."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < math.inf:
        raise InvalidCoordinatorUsageError(f"timeout is {timeout_s!r}; give seconds above 0")
    return float(timeout_s)


def _pair(arguments: Any) -> ArgumentLists:
    if not isinstance(arguments, tuple | list) or len(arguments) != 2:
        raise InvalidCoordinatorUsageError("arguments are a pair: ([Argument, …], [KwArgument, …])")
    return arguments[0], arguments[1]


def _lists(args: Any, kwargs: Any) -> tuple[list[Any], list[Any]]:
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise InvalidCoordinatorUsageError(f"positional arguments are a list, not {type(args).__name__}")
    if isinstance(kwargs, str | bytes) or not isinstance(kwargs, Sequence | Mapping):
        raise InvalidCoordinatorUsageError(f"keyword arguments are a list or a dict, not {type(kwargs).__name__}")
    is_plain = not any(isinstance(each, Argument) for each in args)
    arguments = arguments_of(args, {})[0] if is_plain else list(args)
    keywords = arguments_of((), kwargs)[1] if isinstance(kwargs, Mapping) else list(kwargs)
    check_arguments(arguments, keywords)
    return arguments, keywords
