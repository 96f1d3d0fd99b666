"""A node with `sink`: stores each message, as a document or as a point of a measurement, and sends nothing.

| what is wrong | the message |
|---|---|
| it is no JSON object, or has no such key, field or time | is a dead letter at once |
| the store refuses it | is tried again by the node's `retry` |
| the store is away | waits, for as long as that takes, and uses up no attempt |

It is acknowledged once it is stored. A repeat has the same `_id`, or the same tags and time, and is stored once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.errors import DecodeError, DocumentError, StoreUnavailableError, Wait
from runtime.node.builtin.loaded import loaded
from runtime.node.builtin.sink_records import document_of, object_of, point_of
from runtime.node.context import Context
from runtime.node.handler import LoadedHandler
from runtime.spec.kind_types import sink_types
from runtime.spec.sink import DocumentSink, PointSink, SinkSpec
from runtime.stores.base import Document

log = logging.getLogger(__name__)

# Seconds that one attempt to store a message may take, and the share of a shorter `timeout`: what is late because the
# store is away must not end as a handler that took too long.
PATIENCE_S = 30.0
PATIENCE_SHARE = 0.5

# Stores one message.
Store = Callable[[Context, Document], Awaitable[None]]


def prepare(spec: SinkSpec, timeout_s: float | None) -> Callable[[Bus, Clock], LoadedHandler]:
    """Return what makes the node's handler. timeout_s: of one delivery."""
    store: Store = partial(_save, spec) if isinstance(spec, DocumentSink) else partial(_write, spec)
    sink = Sink(store, PATIENCE_S if timeout_s is None else min(PATIENCE_S, PATIENCE_SHARE * timeout_s))
    handler = loaded(sink.handle, types=sink_types(spec))
    return lambda _bus, _clock: handler


class Sink:
    """The handler of one node."""

    def __init__(self, store: Store, patience_s: float) -> None:
        self._store = store
        self._patience_s = patience_s
        self._is_away = False

    async def handle(self, ctx: Context, data: Any) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._store(ctx, object_of(data))
        except (TimeoutError, StoreUnavailableError) as error:
            raise self._wait(str(error) or f"no answer for {self._patience_s:g} s") from error
        if self._is_away:
            self._is_away = False
            log.info("the store is there again", extra={"action": "store_back"})

    def _wait(self, reason: str) -> Wait:
        if not self._is_away:
            self._is_away = True
            log.warning("messages wait for the store: %s", reason, extra={"action": "store_away"})
        return Wait(f"the store is away: {reason}")


async def _save(spec: DocumentSink, ctx: Context, data: Document) -> None:
    try:
        await ctx.db.save(spec.collection, document_of(spec, data))
    except DocumentError as error:
        raise DecodeError(f"no document: {error}", reason="payload") from error


async def _write(spec: PointSink, ctx: Context, data: Document) -> None:
    services, delivery = ctx._services, ctx._current("a sink").delivery
    own = {"version": services.version, "workflow": services.workflow, "node": services.node}
    # The time at which the stream has stored it is the same for every delivery.
    await services.points.write([point_of(spec, data, runtime_tags=own, stored_ns=delivery.time_ns)])
