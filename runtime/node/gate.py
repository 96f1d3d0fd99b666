"""What may stand between a message and its handler."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from runtime.node.work import Work

# Calls the handler with its data, and hands its outputs over.
Call = Callable[[Any], Awaitable[None]]


class Gate(Protocol):
    """Decides whether and with what a delivery's handler is called: `node/state.py`, `node/join.py`."""

    async def handle(self, work: Work, call: Call, data: Any) -> None:
        """Handle one delivery. data: what the handler would get without the gate.

        Raises what the call raises, RevisionError when another replica was faster, MessageTooLargeError, and
        BusUnavailableError: the message comes again, and nothing that was done before is done twice.
        """
        ...

    async def skip(self, work: Work) -> None:
        """Take note of an ERROR that passes the node without a call. Raises as `handle` does."""
        ...
