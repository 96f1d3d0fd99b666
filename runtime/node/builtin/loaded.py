"""What each kind without a module of the user's is called by: a handler made of coroutine functions of ours."""

import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from runtime.node.handler import CallKind, HandlerFunction, LoadedHandler
from runtime.payload import Decoder, decode_value
from runtime.spec.edges import HandlerTypes

Function = Callable[..., Awaitable[Any]]


def loaded(
    handle: Function,
    *,
    init: Function | None = None,
    beside: Function | None = None,
    teardown: Function | None = None,
    decode: Decoder = decode_value,
    types: HandlerTypes | None = None,
) -> LoadedHandler:
    """Return the handler of a kind, which sends on no channel. decode: makes what `handle` gets of a payload."""
    module = sys.modules[handle.__module__]
    return LoadedHandler(
        path=Path(inspect.getfile(module)),
        module=module,
        default=HandlerFunction(handle, CallKind.ASYNC, decode),
        by_node={},
        from_node_style=False,
        init=_function(init),
        beside=_function(beside),
        teardown=_function(teardown),
        channels=frozenset(),
        handle_errors=False,
        types=types,
    )


def _function(function: Function | None) -> HandlerFunction | None:
    return HandlerFunction(function, CallKind.ASYNC, decode_value) if function is not None else None
