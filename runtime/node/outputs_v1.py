"""The way out of a bare runner on KRE's first wire version: what `Outputs` of `work.py` is on the second.

There is one output subject. What answers the caller goes to the entrypoint's subject, whose program finds the caller by
the request's id: early replies and exits, and errors, whether of this node or passing by.
"""

from collections.abc import Awaitable

from runtime import wire_v1
from runtime.bus.base import Bus, Confirm, Publisher
from runtime.clock import Clock
from runtime.errors import ContextError, EncodeError
from runtime.message import MessageType, Payload, ReplyOutcome
from runtime.node.settle import describe
from runtime.node.work import Outputs, Work
from runtime.proto.packed import whole

_NO_CHANNELS: frozenset[str] = frozenset()


class FirstVersionOutputs(Outputs):
    """Publishes the outputs of one node on KRE's first wire version."""

    _fit = staticmethod(wire_v1.fit)

    def __init__(
        self,
        bus: Bus,
        publisher: Publisher,
        *,
        stream: str,
        node: str,
        subject: str,
        entrypoint: str,
        is_last: bool,
        clock: Clock,
    ) -> None:
        super().__init__(
            bus, publisher, stream=stream, node=node, subject=subject, exit_channel=None, channels=_NO_CHANNELS
        )
        self._entrypoint = entrypoint
        self._is_last = is_last
        self._clock = clock

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
        """See `Outputs.emit`; what comes after the caller's last answer is not sent, and counts as stored."""
        if work.handled:
            raise ContextError("ctx.send_output is only available while a message is handled")
        subject = self.subject(channel)
        if kind is MessageType.EARLY_REPLY:
            await self._reply(work, whole(payload), stored)
            return
        if work.exited or (self._is_last and self._has_replied(work)):
            if stored is not None:
                stored(None)
            return
        if kind is MessageType.EARLY_EXIT or wire_v1.first_of(work.message).early_exit:
            subject = self._entrypoint
        data = wire_v1.encode_output(
            work.message, whole(payload), node=self.node, end_ns=self._clock.time_ns(), replied=self._has_replied(work)
        )
        await self._publish(work, subject, data, kind, answers=False, closes=False, stored=stored)
        # Only ctx.send_early_exit waits until it is stored; ctx.early_exit() concerns what the handler returns.
        work.exited = kind is MessageType.EARLY_EXIT and stored is not None

    def require(self, work: Work) -> None:
        """Refuse None, which leaves a caller waiting for ever. Raises EncodeError when nothing was sent before."""
        if work.outputs == 0 and not self._has_replied(work):
            raise EncodeError("handler returned None, expected a message")

    def fail(
        self, work: Work, subject: str, failure: BaseException, outcome: ReplyOutcome, stored: Confirm
    ) -> Awaitable[None]:
        """Tell the caller of a message that it was given up."""
        reason = describe(failure).removeprefix(f"{type(failure).__name__}: ")
        data = wire_v1.encode_error(work.message, f"error in '{self.node}': {reason}")
        return self._publish(work, subject, data, MessageType.ERROR, answers=False, closes=False, stored=stored)

    async def _reply(self, work: Work, payload: bytes, stored: Confirm | None) -> None:
        if self._has_replied(work):
            raise ContextError("error the message was replied previously")
        work.replied = True
        data = wire_v1.encode_reply(work.message, payload)
        try:
            await self._publish(
                work, self._entrypoint, data, MessageType.EARLY_REPLY, answers=False, closes=False, stored=stored
            )
        except BaseException:
            work.replied = False
            raise

    def _has_replied(self, work: Work) -> bool:
        """Whether this request's caller has had an early reply, of this delivery or of a node before."""
        return work.replied or wire_v1.first_of(work.message).replied
