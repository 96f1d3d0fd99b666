"""Sink `dummy`, also called `log`: hands outputs to a function, or writes them to the log."""

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import Field

from runtime.drivers.flow import Item, Sink, SinkParameters
from runtime.drivers.records import json_bytes

log = logging.getLogger(__name__)

# Called with each output.
Drain = Callable[[Any], Awaitable[None] | None]


class DummyParameters(SinkParameters):
    """Parameters of `dummy`."""

    max_length: int = Field(500, ge=1, description="Characters of an output that the log shows.")


class DummySink(Sink):
    """Writes each output to the log at INFO, or calls a function with it: `DummySink(drain=print)`."""

    parameters = DummyParameters
    params: DummyParameters = DummyParameters()

    def __init__(self, params: DummyParameters | None = None, *, drain: Drain | None = None, **values: Any) -> None:
        """Take the parameters or their values. drain: plain or async; a plain one runs in the sink's thread."""
        super().__init__(params, **values)
        self._drain = drain or self._log

    def write(self, outputs: Any, item: Item) -> Awaitable[None] | None:
        drained = self._drain(outputs)
        return drained if inspect.isawaitable(drained) else None

    def _log(self, outputs: Any) -> None:
        text = json_bytes(outputs).decode()
        shown = text if len(text) <= self.params.max_length else f"{text[: self.params.max_length - 1]}…"
        log.info('sink "%s": %s', self.site.ref, shown, extra={"action": "output"})
