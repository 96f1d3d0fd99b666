"""The way out of an ordered node or a join: one output after the other, or held back until the state is kept."""

from runtime.bus.base import Confirm, Confirmation
from runtime.errors import BusError
from runtime.message import MessageType
from runtime.node.holding import HoldingOutputs
from runtime.node.work import Work


class OrderedOutputs(HoldingOutputs):
    """Publishes so that no output of a delivery overtakes another one.

    All that the plain class hands over at once could be stored in another order after a refused publish, which is
    repeated. So `emit` waits for the PubAck, and raises BusError, too: what follows must not be published. Between
    deliveries order needs nothing: a partition's next message comes after the ack.
    """

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
