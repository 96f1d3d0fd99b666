"""One delivery while it is worked on, and the outputs that it gives rise to.

`Work` is the record of one delivery. `Outputs` is the runner's way out: it numbers, wraps and publishes. Who settles,
and when, is decided in `runner.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from runtime import wire
from runtime.bus.base import Bus, Confirm, Delivery, Headers, Publisher, Reader
from runtime.bus.claims import Claims
from runtime.errors import BusError, ContextError, DecodeError, Drop
from runtime.message import NO_HEADERS, Message, MessageType, Payload, ReplyOutcome
from runtime.node.settle import describe
from runtime.spec import hops, names
from runtime.spec.claims import claim_object
from runtime.spec.node import Partitions

# Mark in the message id, so that an early reply and an output of the same number differ.
_MARKS = {MessageType.OK: "", MessageType.ERROR: "e", MessageType.EARLY_REPLY: "r", MessageType.EARLY_EXIT: "x"}


class StateHolder(Protocol):
    """What `ctx.state` is taken from; see `node/state.py`."""

    @property
    def value(self) -> Any: ...


class HeldOutput(NamedTuple):
    """An output that waits until its delivery's state is kept, or for the others; see `ordered.py`, `atomic.py`."""

    payload: bytes
    channel: str
    kind: MessageType
    last: bool
    headers: Mapping[str, str] = NO_HEADERS


class Work:
    """The record of one delivery, from take to settle. Everything happens on the loop's thread."""

    __slots__ = (
        "answered",
        "delivery",
        "early_exit",
        "ends_s",
        "exited",
        "failure",
        "finished",
        "handled",
        "held",
        "message",
        "on_finished",
        "origin",
        "outputs",
        "outstanding",
        "overdue",
        "path",
        "reader",
        "redrive",
        "replied",
        "run_s",
        "saves",
        "slot",
        "started_s",
        "state",
        "timeout_s",
        "wait_s",
    )

    def __init__(
        self,
        delivery: Delivery,
        reader: Reader,
        on_finished: Callable[["Work"], None],
        slot: asyncio.Task[None] | None = None,
    ) -> None:
        """slot: the task that the handler runs in, None outside of a runner."""
        self.delivery = delivery
        self.reader = reader
        self.slot = slot
        self.message = _UNREAD
        self.on_finished = on_finished
        # The first input's sequence, the path behind it in a fused chain (see `spec/hops.py`), and the number of
        # redrives: what ids of outputs and documents are made from.
        self.origin = delivery.origin or delivery.sequence
        self.path = delivery.path
        self.redrive = 0
        self.outputs = 0
        self.saves = 0
        self.outstanding = 0
        # On a node with a state: the state of this delivery. There, and on an atomic node: outputs that are held back.
        self.state: StateHolder | None = None
        self.held: list[HeldOutput] | None = None
        # On a join: seconds after which the message is to come again, because its set has not ended yet.
        self.wait_s: float | None = None
        self.failure: BaseException | None = None
        # handled: the handler is through with it. finished: every output is confirmed too, and the end is decided.
        self.handled = False
        self.finished = False
        # The caller got an output of this node; what the handler returns is the end of the request.
        self.answered = False
        self.early_exit = False
        # The caller was told how his request ended, or on KRE's first wire version has an early reply; on that version
        # alone: he has an early exit, which nothing follows.
        self.replied = False
        self.exited = False
        # While the handler runs: when it was called, when it is overdue, and whether it was cancelled for that.
        self.started_s = 0.0
        self.timeout_s: float | None = None
        self.ends_s: float | None = None
        self.overdue = False
        # How long the handler ran, once it is through.
        self.run_s = 0.0
        # What a node of a chain hands on has an origin, and was not redriven.
        if not delivery.origin and (headers := delivery.headers) is not None and names.REDRIVE_HEADER in headers:
            self._read_redrive(headers)

    def _read_redrive(self, headers: Headers) -> None:
        try:
            self.origin, self.path = hops.read_place(headers.get(names.ORIGIN_HEADER, str(self.origin)))
            self.redrive = int(headers[names.REDRIVE_HEADER])
        except ValueError:
            self.failure = DecodeError(f"the headers of a redriven message are no numbers: {headers}", reason="headers")

    def start(self, now_s: float, timeout_s: float | None) -> asyncio.Task[None]:
        """The handler begins, and has `timeout_s` seconds (None: no limit). Return the slot that it runs in."""
        assert self.slot is not None, "given by the runner"
        self.started_s = now_s
        self.timeout_s = timeout_s
        self.ends_s = None if timeout_s is None else now_s + timeout_s
        return self.slot

    def begin_again(self) -> None:
        """The handler is called anew within this delivery: what it sends and saves has the ids of the call before."""
        self.outputs = self.saves = 0
        self.early_exit = False
        if self.held is not None:
            self.held.clear()

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Give what is sent from now on these headers, in the place of those that came with the message."""
        self.message = self.message._replace(headers=headers)

    def progress(self, now_s: float) -> None:
        """The handler says that it goes on: ack wait and timeout start anew. Nothing once it was given up."""
        if self.handled:
            return
        self.reader.keep_alive(self.delivery)
        if self.timeout_s is not None:
            self.ends_s = now_s + self.timeout_s

    def confirmed(self, error: BusError | None) -> None:
        """One output has its PubAck, or was given up with `error`."""
        self.outstanding -= 1
        if error is not None and (self.failure is None or isinstance(self.failure, Drop)):
            self.failure = error
        if self.handled and self.outstanding == 0:
            self.on_finished(self)

    def end(self, failure: BaseException | None) -> None:
        """The handler is through; the work is finished once every output is confirmed."""
        self.handled = True
        if failure is not None and self.failure is None:
            self.failure = failure
        if self.outstanding == 0:
            self.on_finished(self)


_UNREAD = Message()
NO_PARTITIONS: Mapping[str, Partitions] = MappingProxyType({})
# Looked up once: reading a member of an enumeration costs as much as a call.
_OK = MessageType.OK


class Outputs:
    """Publishes the outputs of one node, under ids that are the same for every delivery of the same input."""

    _fit = staticmethod(wire.fit)

    def __init__(
        self,
        bus: Bus,
        publisher: Publisher,
        *,
        stream: str,
        node: str,
        subject: str,
        exit_channel: str | None,
        channels: frozenset[str] | None,
        own_fields: bool = True,
        partitioned: Mapping[str, Partitions] = NO_PARTITIONS,
        claims: Claims | None = None,
    ) -> None:
        """own_fields: False among KRE's programs, for which an output has no field of ours that its input had not.

        partitioned: by subject, the outputs that somebody reads in order. claims: for payloads that are larger than a
        message; without it they are refused.
        """
        self.node = node
        self.stream = stream
        self._bus = bus
        self._publisher = publisher
        self._subject = subject
        self._exit_channel = exit_channel
        self._channels = channels
        self._own_fields = own_fields
        self._partitioned = partitioned
        self._claims = claims

    @property
    def is_exit(self) -> bool:
        """Whether this node's messages answer the caller."""
        return self._exit_channel is not None

    def subject(self, channel: str) -> str:
        """Return the subject of a channel. Raises ContextError for a name that is not declared, or no name."""
        if channel in ("", names.MAIN_CHANNEL):
            return self._subject
        if self._channels is not None and channel not in self._channels:
            declared = ", ".join(sorted(self._channels)) or "none"
            raise ContextError(f"node '{self.node}' declares no channel '{channel}'; declared: {declared}")
        if not names.is_name(channel):
            raise ContextError(f"'{channel}' is no channel; use a-z, 0-9 and '-'")
        return f"{self._subject}.{channel}"

    def emit(
        self,
        work: Work,
        payload: Payload,
        channel: str = "",
        *,
        kind: MessageType = MessageType.OK,
        last: bool = False,
        stored: Confirm | None = None,
    ) -> Awaitable[None]:
        """Hand one output over, when awaited; the work is not finished before it is confirmed.

        last: nothing follows it, so on the exit node it carries the outcome. stored: told once it is confirmed.
        Raises MessageTooLargeError, ContextError, BusClosedError; nothing was sent then.
        """
        if work.handled:  # nobody would confirm it, settle it or know of it
            raise ContextError("ctx.send_output is only available while a message is handled")
        subject = self.subject(channel) if channel else self._subject
        answers, outcome = False, ""
        if work.message.reply_to:
            if kind is _OK:
                answers = self._exit_channel == (channel or names.MAIN_CHANNEL)
                work.answered = work.answered or answers
            else:  # an early answer that is passed on has been given by its first sender
                answers = kind is not work.message.type
            outcome = ReplyOutcome.OK.value if answers and (last or kind is MessageType.EARLY_EXIT) else ""
        # What it says of the handler's time is for `krt trace`; KRE's own outputs say nothing of it.
        run_us = int(work.run_s * 1e6) if self._own_fields else 0
        data = wire.encode_output(work.message, payload, from_node=self.node, kind=kind, outcome=outcome, run_us=run_us)
        return self._publish(work, subject, data, kind, answers=answers, closes=bool(outcome), stored=stored)

    def emit_result(self, work: Work, payload: Payload) -> Awaitable[None]:
        """Hand over what the handler has returned: its last output. As `emit`."""
        return self.emit(work, payload, kind=MessageType.EARLY_EXIT if work.early_exit else _OK, last=True)

    def require(self, work: Work) -> None:
        """Take note of a handler that returned None, which is no output here."""

    def fail(
        self, work: Work, subject: str, failure: BaseException, outcome: ReplyOutcome, stored: Confirm
    ) -> Awaitable[None]:
        """Publish the ERROR of a message that was given up, so that it reaches the exit node and the caller."""
        source = work.message.from_node or "unknown"
        text = f"Error in node '{self.node}' executing handler for node '{source}': {describe(failure)}"
        data = wire.encode_output(
            work.message,
            b"",
            from_node=self.node,
            kind=MessageType.ERROR,
            error=text,
            outcome=outcome.value if self._own_fields or work.message.reply_to else "",
            run_us=int(work.run_s * 1e6) if self._own_fields else 0,
        )
        answers = self.is_exit and bool(work.message.reply_to)
        return self._publish(work, subject, data, MessageType.ERROR, answers=answers, closes=True, stored=stored)

    def forward(self, work: Work, subject: str) -> Awaitable[None]:
        """Publish the input's bytes unchanged: an ERROR or an early answer on its way to the exit node."""
        answers = self.is_exit and bool(work.message.reply_to)
        data = work.delivery.data
        if work.message.claim is not None:  # each message has an object of its own, which goes when it is done
            data = wire.encode(work.message._replace(claim=None))
        return self._publish(work, subject, data, work.message.type, answers=answers, closes=True)

    def close_reply(self, work: Work) -> None:
        """Tell a caller who has not been told the outcome yet that there is nothing more to come."""
        if self.is_exit and work.message.reply_to and not work.replied:
            work.replied = True
            end = wire.encode_output(
                work.message, b"", from_node=self.node, kind=MessageType.OK, outcome=ReplyOutcome.OK.value
            )
            self._bus.send(work.message.reply_to, end)

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
        """answers: the caller gets the output, too. closes: it is the last thing that he hears of."""
        if self._partitioned and (partitions := self._partitioned.get(subject)):
            subject = partitions.subject(subject, work.message.state_id, work.message.request_id)
        limit_bytes = self._publisher.limit_bytes
        is_claimed = self._claims is not None and len(data) > limit_bytes - wire.HEADER_ROOM_BYTES
        if not is_claimed:
            data = self._fit(data, limit_bytes)
        # One ERROR ends a message, however many outputs the attempt before it had sent.
        number = 0 if kind is MessageType.ERROR else work.outputs
        work.outputs += 1
        mark = "" if kind is _OK else _MARKS[kind]
        message_id = names.message_id(self.node, work.origin, number, mark=mark, redrive=work.redrive, path=work.path)
        work.outstanding += 1
        try:
            if is_claimed:
                data = await self._claim(subject, data, kind, message_id, is_answer=answers)
            confirm: Confirm = work.confirmed
            if answers or stored is not None:
                confirm = self._answering(work, data if answers else None, closes, stored)
            await self._hand_over(work, subject, data, kind, message_id, confirm)
        except BaseException:
            work.outstanding -= 1
            raise

    async def _claim(self, subject: str, data: bytes, kind: MessageType, message_id: str, *, is_answer: bool) -> bytes:
        """Return what to publish for an envelope that is too large. Raises as `Claims.fit` does."""
        assert self._claims is not None, "asked before"
        return await self._claims.fit(
            data,
            self._publisher.limit_bytes,
            lambda digest: claim_object(subject, message_id, digest, is_answer=is_answer),
        )

    def _hand_over(
        self, work: Work, subject: str, data: bytes, kind: MessageType, message_id: str, confirm: Confirm
    ) -> Coroutine[Any, Any, None]:
        """Let one output go to its readers; `confirm` as of `Publisher.publish`."""
        return self._publisher.publish(subject, data, message_id=message_id, confirm=confirm)

    def _answering(self, work: Work, reply: bytes | None, closes: bool, stored: Confirm | None) -> Confirm:
        """Return the confirm of an output that the caller is to see: he gets it once it is stored, not before."""

        def confirm(error: BusError | None) -> None:
            if error is None and reply is not None:
                work.replied = work.replied or closes
                self._bus.send(work.message.reply_to, reply)
            if stored is not None:
                stored(error)
            work.confirmed(error)

        return confirm
