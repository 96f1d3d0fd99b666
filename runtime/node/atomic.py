"""The way out of a node whose file says `atomic: true`: all outputs of a delivery are stored together, or none.

They are held until the handler is through, and leave as one batch under the ids that they have in any case. An attempt
that fails, or ends in Retry, Reject or Drop, leaves nothing behind.
"""

import copy
from typing import Any, cast

from runtime.bus.base import Confirm, Publisher
from runtime.bus.batch import BatchMessage
from runtime.node.gate import Call
from runtime.node.holding import HoldingOutputs
from runtime.node.work import HeldOutput, Work


class AtomicOutputs(HoldingOutputs):
    """Holds what a delivery sends, until `release`."""

    async def release(self, work: Work) -> None:
        """Hand over what was held: several outputs as one batch. Raises what `emit` raises; nothing was sent then."""
        held, work.held = work.held or [], None
        if len(held) < 2:
            await self._emit_all(work, held)
            return
        batch = _Batch(self._publisher.limit_bytes)
        gathering = copy.copy(self)
        gathering._publisher = cast(Publisher, batch)  # of which outputs need these two members only
        try:
            await gathering._emit_all(work, held)
            await self._publisher.publish_batch(batch.messages)
        except BaseException:
            work.outstanding -= len(batch.messages)
            raise

    async def _emit_all(self, work: Work, held: list[HeldOutput]) -> None:
        for each in held:
            work.set_headers(each.headers)
            await self.emit(work, each.payload, each.channel, kind=each.kind, last=each.last)


class _Batch:
    """What outputs publish into while they are gathered."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.messages: list[BatchMessage] = []

    async def publish(self, subject: str, payload: bytes, *, message_id: str, confirm: Confirm) -> None:
        self.messages.append(BatchMessage(subject, payload, message_id, confirm))


class AtomicGate:
    """Calls the handler, then lets out what it has sent. See `node/gate.py`."""

    def __init__(self, outputs: AtomicOutputs) -> None:
        self._outputs = outputs

    async def handle(self, work: Work, call: Call, data: Any) -> None:
        work.held = []
        await call(data)
        if not work.overdue:  # otherwise the handler has swallowed its cancellation
            await self._outputs.release(work)

    async def skip(self, work: Work) -> None:
        """An ERROR that passes is one message."""
