"""The way out of an ordered node or a join: one output after the other, or held back until the state is kept."""

from runtime.bus.base import Confirm, Confirmation
from runtime.errors import BusError
from runtime.message import MessageType, Payload
from runtime.node.work import HeldOutput, Outputs, Work
from runtime.proto.packed import whole


class OrderedOutputs(Outputs):
    """Publishes so that no output of a delivery overtakes another one.

    All that the plain class hands over at once could be stored in another order after a refused publish, which is
    repeated. Order between deliveries needs nothing: a partition's next message comes after the ack.
    """

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
        """Publish one output and wait for its PubAck; or hold it back while `work.held` is a list.

        An early reply, whose sender waits until it is `stored`, is never held back: the caller is to have it now.
        Raises BusError, too: what follows must not be published.
        """
        if work.held is None or stored is not None or work.handled:
            await super().emit(work, payload, channel, kind=kind, last=last, stored=stored)
            return
        self.subject(channel)  # refuses a wrong channel while the handler can still hear of it
        work.held.append(HeldOutput(whole(payload), channel, kind, last, work.message.headers))

    async def _publish(
        self,
        work: Work,
        subject: str,
        data: bytes,
        kind: MessageType,
        *,
        answers: bool,
        closes: bool,
        stored: Confirm | None = None,
    ) -> None:
        confirmed = Confirmation()

        def confirm(error: BusError | None) -> None:
            confirmed(error)
            if stored is not None:
                stored(error)

        await super()._publish(work, subject, data, kind, answers=answers, closes=closes, stored=confirm)
        await confirmed
