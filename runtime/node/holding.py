"""The way out of a node that may keep back what a delivery sends: `atomic.py`, `ordered.py`."""

from runtime.bus.base import Confirm
from runtime.message import MessageType, Payload
from runtime.node.work import HeldOutput, Outputs, Work
from runtime.proto.packed import whole


class HoldingOutputs(Outputs):
    """Holds outputs back while `work.held` is a list."""

    async def emit(
        self,
        work: Work,
        payload: Payload,
        channel: str = "",
        *,
        kind: MessageType = MessageType.OK,
        last: bool = False,
        stored: Confirm | None = None,
    ) -> None:
        """Hold one output back, or publish it.

        An early reply, whose sender waits until it is `stored`, is never held back: the caller is to have it now.
        """
        if work.held is None or stored is not None or work.handled:
            await super().emit(work, payload, channel, kind=kind, last=last, stored=stored)
            return
        self.subject(channel)  # refuses a wrong channel while the handler can still hear of it
        work.held.append(HeldOutput(whole(payload), channel, kind, last, work.message.headers))
