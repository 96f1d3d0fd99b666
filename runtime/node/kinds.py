"""What a node calls for its messages, by its kind: the user's handler, or work of the runtime's own.

A kind's module has `prepare(spec, …)`, which loads and checks the user's code before anything is connected. What it
returns makes the handler once there is a connection; to the runner it is a handler like any other. A module is imported
by the nodes of its kind alone.
"""

import contextlib
from collections.abc import AsyncIterator, Callable

from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.node.batching_handler import for_batches
from runtime.node.handler import LoadedHandler, load_handler
from runtime.settings import NodeSettings
from runtime.spec.node import NodeSpec

MakeHandler = Callable[[Bus, Clock], LoadedHandler]


def prepare_handler(settings: NodeSettings, spec: NodeSpec) -> MakeHandler:
    """Load the user's code, and return what makes the node's handler. Raises HandlerLoadError."""
    if spec.dispatch is not None:
        from runtime.node.builtin import dispatch

        return dispatch.prepare(spec.dispatch, spec.timeout_s)
    if spec.models is not None:
        from runtime.node.builtin import models

        return models.prepare(spec.models, settings.base_path)
    if spec.batch is not None:
        from runtime.node.builtin import batch

        return batch.prepare(settings, spec.batch, spec.retry)
    if spec.sink is not None:
        from runtime.node.builtin import sink

        return sink.prepare(spec.sink, spec.timeout_s)
    handler = load_handler(
        settings.base_path,
        settings.handler_path,
        use_annotations=bool(settings.node_spec),
        first_version=settings.wire == "v1",
        batched=spec.batching is not None,
    )
    if spec.batching is not None:
        handler = for_batches(handler)
    return lambda _bus, _clock: handler


@contextlib.asynccontextmanager
async def open_handler(settings: NodeSettings, spec: NodeSpec) -> AsyncIterator[MakeHandler]:
    """As `prepare_handler`; where the node has worker processes, the code is loaded there, and they end with this.

    Raises HandlerLoadError; WorkerEndedError and OSError for a worker that does not come up.
    """
    if spec.workers is None:
        yield prepare_handler(settings, spec)
        return
    from runtime.node import isolation

    async with isolation.open_workers(settings, spec) as pool:
        handler = pool.handler()
        yield lambda _bus, _clock: handler
