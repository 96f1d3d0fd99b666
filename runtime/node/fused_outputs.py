"""The way out of a node of a fused chain: to the next node in its process, or to the stream."""

from collections.abc import Awaitable

from runtime.bus.base import Confirm
from runtime.errors import BusError, ContextError
from runtime.message import MessageType, Payload
from runtime.node.handed import Handed, passed_before, passed_behind
from runtime.node.link import Link
from runtime.node.work import Outputs, Work
from runtime.proto.packed import whole
from runtime.spec import hops, names
from runtime.spec.node import HandOver

# Looked up once: reading a member of an enumeration costs as much as a call.
_OK = MessageType.OK
# How handlers name the plain output.
_PLAIN = ("", names.MAIN_CHANNEL)


class FusedOutputs(Outputs):
    """The way out of a node of a chain: its plain output goes to the next node, all others to the stream."""

    _link: Link | None = None
    _handed: frozenset[str] = frozenset()
    _stored = False

    def connect(self, link: Link, hand_over: HandOver) -> None:
        """Hand the plain output over to `link` from now on."""
        self._link = link
        self._handed = frozenset(hand_over.subjects)
        self._stored = hand_over.stored

    def emit(
        self,
        work: Work,
        payload: Payload,
        channel: str = "",
        *,
        kind: MessageType = _OK,
        last: bool = False,
        stored: Confirm | None = None,
    ) -> Awaitable[None]:
        """As in the class above; the next node gets a plain output as it is: no envelope, and of any size."""
        if self._link is None or kind is not _OK or channel not in _PLAIN:
            return super().emit(work, payload, channel, kind=kind, last=last, stored=stored)
        return self._emit_plain(self._link, work, payload, last=last)

    def emit_result(self, work: Work, payload: Payload) -> Awaitable[None]:
        """As in the class above; where the next node has nothing to do, it handles the output at once."""
        link, slot = self._link, work.slot
        if link is None or slot is None or work.early_exit or self._stored or (place := link.lend()) is None:
            return super().emit_result(work, payload)
        try:
            handed = self._handed_output(work, payload)
        except BaseException:
            link.give_back(place)
            raise
        work.outputs += 1
        work.outstanding += 1
        return link.handle(handed, slot, place)

    def _check_size(self, payload: bytes) -> None:
        """Refuse what no dead letter could hold."""
        if self._claims is None and len(payload) > self._publisher.limit_bytes:
            self._fit(payload, self._publisher.limit_bytes)

    async def _emit_plain(self, link: Link, work: Work, payload: Payload, *, last: bool) -> None:
        if work.handled:
            raise ContextError("ctx.send_output is only available while a message is handled")
        handed = self._handed_output(work, payload)
        if self._stored:
            await super().emit(work, payload, last=last)
        else:
            work.outputs += 1
        if link.hand(handed):
            work.outstanding += 1
        else:
            await self._put(link, work, handed)

    def _handed_output(self, work: Work, payload: Payload) -> Handed:
        packed = whole(payload)
        self._check_size(packed)
        path = hops.path_of_output(work.path, work.outputs, work.redrive)
        return Handed(
            work.delivery,
            self._subject,
            work.origin,
            path,
            passed_behind(work, self.node),
            work.confirmed,
            work.message.output(packed, self.node),
        )

    async def _hand_over(
        self, work: Work, subject: str, data: bytes, kind: MessageType, message_id: str, confirm: Confirm
    ) -> None:
        # Only what came through a link has passed nodes of the process.
        headers = {names.HOPS_HEADER: passed_before(work)} if work.path else None
        publish = self._publisher.publish
        if self._link is None or kind is _OK or subject not in self._handed:
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
            return
        # Whoever sends an early answer waits until it is stored, not until the next node has a free slot.
        if kind is not MessageType.ERROR:
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
            await self._put(self._link, work, self._handed_bytes(work, data, message_id, work.confirmed))
            return
        if self._stored:  # the message that failed is ended once its ERROR is confirmed
            confirm = _once_both(confirm)
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
        await self._link.put(self._handed_bytes(work, data, message_id, confirm))

    def _handed_bytes(self, work: Work, data: bytes, message_id: str, confirm: Confirm) -> Handed:
        path, passed = hops.path_behind(message_id), passed_behind(work, self.node)
        return Handed(work.delivery, self._subject, work.origin, path, passed, confirm, None, data)

    async def _put(self, link: Link, work: Work, handed: Handed) -> None:
        """Hand over what the work is not finished without, as soon as there is room."""
        work.outstanding += 1
        try:
            await link.put(handed)
        except BaseException:
            work.outstanding -= 1
            raise


def _once_both(confirm: Confirm) -> Confirm:
    """Return a confirm for two, that tells the first error."""
    told: list[BusError | None] = []

    def confirmed(error: BusError | None) -> None:
        told.append(error)
        if len(told) == 2:
            confirm(next((each for each in told if each is not None), None))

    return confirmed
