"""The way out of a node of a fused chain: to the next node in its process, or to the stream."""

from collections.abc import Awaitable

from runtime.bus.base import Confirm
from runtime.errors import BusError, ContextError
from runtime.message import MessageType, Payload
from runtime.node.handed import Handed
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

    async def _emit_plain(self, link: Link, work: Work, payload: Payload, *, last: bool) -> None:
        if work.handled:
            raise ContextError("ctx.send_output is only available while a message is handled")
        packed = whole(payload)
        if self._claims is None:
            self._fit(packed, self._publisher.limit_bytes)  # refuses what no dead letter could hold
        path = hops.path_of_output(work.path, work.outputs, work.redrive)
        if self._stored:
            await super().emit(work, payload, last=last)
        else:
            work.outputs += 1
        handed = Handed(
            work.delivery,
            self._subject,
            origin=work.origin,
            path=path,
            passed=self._passed(work),
            message=work.message.output(packed, self.node),
        )
        if link.hand(handed, work.confirmed):
            work.outstanding += 1
        else:
            await self._put(link, work, handed)

    async def _hand_over(
        self, work: Work, subject: str, data: bytes, kind: MessageType, message_id: str, confirm: Confirm
    ) -> None:
        # Only what came through a link has passed nodes of the process.
        headers = {names.HOPS_HEADER: _before(work)} if work.path else None
        publish = self._publisher.publish
        if self._link is None or kind is _OK or subject not in self._handed:
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
            return
        handed = Handed(
            work.delivery,
            self._subject,
            origin=work.origin,
            path=hops.path_behind(message_id),
            passed=self._passed(work),
            data=data,
        )
        # Whoever sends an early answer waits until it is stored, not until the next node has a free slot.
        if kind is not MessageType.ERROR:
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
            await self._put(self._link, work, handed)
            return
        if self._stored:  # the message that failed is ended once its ERROR is confirmed
            confirm = _once_both(confirm)
            await publish(subject, data, message_id=message_id, headers=headers, confirm=confirm)
        await self._link.put(handed, confirm)

    async def _put(self, link: Link, work: Work, handed: Handed) -> None:
        """Hand over what the work is not finished without, as soon as there is room."""
        work.outstanding += 1
        try:
            await link.put(handed, work.confirmed)
        except BaseException:
            work.outstanding -= 1
            raise

    def _passed(self, work: Work) -> str:
        return hops.add_hop(_before(work) if work.path else "", self.node, int(work.run_s * 1e6))


def _before(work: Work) -> str:
    """Return the nodes that a message with a path has passed before this one."""
    headers = work.delivery.headers
    return headers.get(names.HOPS_HEADER, "") if headers is not None else ""


def _once_both(confirm: Confirm) -> Confirm:
    """Return a confirm for two, that tells the first error."""
    told: list[BusError | None] = []

    def confirmed(error: BusError | None) -> None:
        told.append(error)
        if len(told) == 2:
            confirm(next((each for each in told if each is not None), None))

    return confirmed
