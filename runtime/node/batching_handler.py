"""A handler for batches: what it takes, checked when it is loaded, and what it returns, checked after every call."""

import typing
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.errors import BatchResultError, HandlerLoadError, Outcome
from runtime.node.handler import CallKind, LoadedHandler
from runtime.payload import decoder_for

# Annotations of the second parameter of which the items are the messages.
_LISTS = (list, Sequence)


def for_batches(loaded: LoadedHandler) -> LoadedHandler:
    """Return the handler of a node with `batch`: each message is read as the item type of its list.

    Without `batch` an annotation `list[T]` is one message whose payload is a list. Raises HandlerLoadError.
    """
    function = loaded.default
    if loaded.from_node_style or function is None:
        raise HandlerLoadError(
            f"{loaded.path}: the node has 'batch', and handlers by sender take one message each; write one"
            " handler(ctx, data), or remove 'batch' from the file"
        )
    if function.kind in (CallKind.GENERATOR, CallKind.ASYNC_GENERATOR):
        raise HandlerLoadError(
            f"{loaded.path}: the node has 'batch', and a generator does not say whose message an item belongs to;"
            " return a list with one result for each message"
        )
    item = _item_annotation(function.annotation, loaded)
    try:
        decode = decoder_for(item)
    except TypeError as error:
        raise HandlerLoadError(f"{loaded.path}: the items of 'data': {error}") from error
    return replace(loaded, default=replace(function, decode=decode, annotation=item, batched=True))


def results_of(returned: Any, messages: int) -> Sequence[Any]:
    """Return one result for each message of a call; None for all of them is no output.

    Raises BatchResultError where they do not match, and an outcome that is meant for all.
    """
    if returned is None:
        return [None] * messages
    if isinstance(returned, Outcome):
        raise returned
    if not isinstance(returned, (list, tuple)) and not hasattr(returned, "tolist"):  # numpy's arrays have it
        raise BatchResultError(
            f"the handler got {messages} messages and returned {type(returned).__name__}; return a list with one"
            " result for each message, in their order"
        )
    if len(returned) != messages:
        raise BatchResultError(
            f"the handler got {messages} messages and returned {len(returned)} results; return one for each message,"
            " in their order: None for no output, or Retry, Reject or Drop"
        )
    results: Sequence[Any] = returned
    return results


def _item_annotation(annotation: Any, loaded: LoadedHandler) -> Any:
    if annotation is Any or annotation in _LISTS:
        return Any
    if typing.get_origin(annotation) in _LISTS:
        return typing.get_args(annotation)[0]
    shown = getattr(annotation, "__name__", str(annotation))
    raise HandlerLoadError(
        f"{loaded.path}: the node has 'batch', so that handler(ctx, data) gets a list of messages, but data is"
        f" annotated as {shown}; write data: list[{shown}], or remove 'batch' from the file"
    )
