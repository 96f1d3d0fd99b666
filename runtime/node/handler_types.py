"""The types that a handler declares for its messages and results, read from its annotations.

Used by `krt check`, which compares the two sides of every edge, and by a running node, which tells them to drivers.
"""

import collections.abc
import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pydantic
from google.protobuf import any_pb2
from google.protobuf.message import Message

from runtime import errors
from runtime.node.handler import LoadedHandler
from runtime.payload import annotated_dtype, native_kind
from runtime.spec import names
from runtime.spec.edges import NATIVE_KINDS, EdgeType, HandlerTypes, JsonSchema, edge_schema
from runtime.spec.type_schema import type_schema

UNKNOWN = EdgeType(kind="unknown")

# What a handler may return besides its results.
OUTCOMES = (errors.Retry, errors.Reject, errors.Drop)
# Returned containers whose items are the outputs.
CONTAINERS = (
    list,
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)


def handler_types(loaded: LoadedHandler) -> HandlerTypes:
    """Return what a handler module declares."""
    if loaded.types is not None:
        return loaded.types
    functions = dict(loaded.by_node.items())
    if loaded.default is not None:
        functions[""] = loaded.default
    inputs = {
        node: edge_type(function.annotation, "validation") if function.batched else input_type(function.function)
        for node, function in functions.items()
    }
    output = None
    # What a handler of the from-node style returns is ignored; it sends through its context.
    if loaded.default is not None and not loaded.from_node_style:
        output = output_type(loaded.default.function, batched=loaded.default.batched)
    line = _line(next(iter(functions.values())).function)
    return HandlerTypes(line=line, inputs=inputs, output=output, channels=_channels(loaded))


def told_schemas(loaded: LoadedHandler, *, takes_requests: bool, exit_channel: str | None) -> dict[str, JsonSchema]:
    """Return what a node tells drivers: the JSON Schemas `inputs`, if it takes requests, and `outputs`, if it answers.

    One that says nothing, or takes bytes or protobuf messages, is left out.
    """
    declared = handler_types(loaded)
    told = {"inputs": declared.input_from(names.ENTRYPOINT)} if takes_requests else {}
    if exit_channel == names.MAIN_CHANNEL:
        told["outputs"] = declared.output or UNKNOWN
    elif exit_channel is not None:
        told["outputs"] = (declared.channels or {}).get(exit_channel, UNKNOWN)
    return {what: edge_schema(edge) for what, edge in told.items() if edge.json_schema or edge.kind in NATIVE_KINDS}


def input_type(function: Callable[..., Any]) -> EdgeType:
    """Return the type of the second parameter."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < 2:
        return UNKNOWN
    return edge_type(_hints(function).get(parameters[1].name, Any), mode="validation")


def output_type(function: Callable[..., Any], *, batched: bool = False) -> EdgeType | None:
    """Return the type of the outputs without outcomes: None where the handler says that it returns nothing.

    batched: it returns a list with one result for each message.
    """
    hints = _hints(function)
    if "return" not in hints:
        return UNKNOWN
    returned = _item(hints["return"]) if batched else hints["return"]
    results = [member for member in _union(returned) if not _is_no_result(member)]
    items = [_item(member) for member in results]
    if not items:
        return None
    return edge_type(items[0] if len(items) == 1 else typing.Union[tuple(items)], mode="serialization")  # noqa: UP007


def edge_type(annotation: Any, mode: Literal["validation", "serialization"]) -> EdgeType:
    """Return the description of an annotation; `unknown` for one that no JSON Schema can be made of."""
    if annotation in (Any, object):
        return UNKNOWN
    if annotation in (any_pb2.Any, Message):
        return EdgeType(kind="raw")
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return EdgeType(kind="protobuf", message=annotation.DESCRIPTOR.full_name)
    if annotation is bytes:
        return EdgeType(kind="bytes")
    if (native := native_kind(annotation)) is not None:
        return EdgeType(kind=native.value, dtype=annotated_dtype(annotation))
    with contextlib.suppress(pydantic.errors.PydanticUserError, TypeError):
        return EdgeType(kind="json", json_schema=type_schema(annotation, mode))
    return UNKNOWN


def _channels(loaded: LoadedHandler) -> dict[str, EdgeType] | None:
    if loaded.channels is None:
        return None
    declared = getattr(loaded.module, "channels", None)
    annotations = declared if isinstance(declared, Mapping) else {}
    return {name: edge_type(annotations.get(name, Any), mode="serialization") for name in sorted(loaded.channels)}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    inner = inspect.unwrap(getattr(function, "func", function))
    inner = inner if inspect.isroutine(inner) else type(inner).__call__
    try:
        return typing.get_type_hints(inner)
    except Exception:  # an annotation is the user's code; one that only type checkers can read is no fault
        return {}


def _union(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _is_no_result(annotation: Any) -> bool:
    if annotation in (None, type(None), typing.NoReturn, typing.Never):
        return True
    return isinstance(annotation, type) and issubclass(annotation, OUTCOMES)


def _item(annotation: Any) -> Any:
    """Return the type of the items where several outputs are returned; a bare list says nothing of them."""
    origin = typing.get_origin(annotation)
    if origin in CONTAINERS:
        return typing.get_args(annotation)[0]
    return Any if annotation in CONTAINERS else annotation


def _line(function: Callable[..., Any]) -> int:
    with contextlib.suppress(TypeError, OSError):
        return inspect.getsourcelines(inspect.unwrap(function))[1]
    return 1
