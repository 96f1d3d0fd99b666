"""Client of one workflow: puts requests into its stream and hands each answer to the request it belongs to.

Used by drivers, by the command line and by users. Owns one reply subscription, one publisher and the table of requests
in flight; the bus is the caller's. Everything happens on the event loop's thread.

    async with Workflow(bus, "prod_v1_greeter") as workflow:
        await workflow.predict({"name": "Ada"})                     # the answer's value
        futures = [workflow.predict(line) for line in lines]        # all of them in flight
        async for reply in workflow.predict_all({"name": "Ada"}):   # every answer, early replies too
            print(reply.from_node, reply.value)

Answers travel on core NATS: one that is sent while this connection is away is lost, and its request times out.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from runtime import payload, wire
from runtime.bus.base import GIVE_UP_S, Bus, CoreMessage, Publisher, Subscription
from runtime.clock import Clock, SystemClock, TimerHandle
from runtime.errors import (
    BusClosedError,
    BusUnavailableError,
    DecodeError,
    KrtError,
    MessageError,
    MessageTooLargeError,
    NotFoundError,
    PredictionError,
    StreamFullError,
)
from runtime.message import Message, MessageType, ReplyOutcome, new_request_id
from runtime.spec import names
from runtime.spec.node import Partitions

log = logging.getLogger(__name__)

# Header of a request that becomes the envelope's own field: W3C trace context.
TRACE_HEADER = "traceparent"
# Seconds that a request may take when the caller does not say.
DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer to a request. outcome: "" unless the sender knew that it is the last."""

    value: Any
    type: MessageType
    from_node: str
    outcome: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How requests reach a workflow that somebody else runs, and where its answers pass.

    subject: that requests are stored under. answers: subject of all answers; those to requests of others count as late.
    encode, decode: the envelope; decode raises DecodeError.
    """

    subject: str
    answers: str
    encode: Callable[[Message], bytes]
    decode: Callable[[bytes], Message]


class Workflow:
    """See the module. Open it with `async with`, or with `start` and `close`."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        *,
        clock: Clock | None = None,
        give_up_s: float = GIVE_UP_S,
        route: Route | None = None,
    ) -> None:
        """Prepare; nothing is sent. give_up_s: how long a request is retried that the stream does not take."""
        self.stream = stream
        # Answers that came after their request had ended: second answers, and those after a timeout or a cancel.
        self.late_answers = 0
        self._bus = bus
        self._clock: Clock = clock or SystemClock()
        self._give_up_s = give_up_s
        self._subject = route.subject if route else names.entrypoint_subject(stream)
        self._answers = route.answers if route else ""
        # Nodes of others do not listen there.
        self._cancel_subject = "" if route else names.cancel_subject(stream)
        self._encode = route.encode if route else wire.encode
        self._decode = route.decode if route else wire.decode
        self._partitions: Partitions | None = None
        self._inbox = ""
        self._pending: dict[str, _Request] = {}
        self._outbox: asyncio.Queue[_Request] = asyncio.Queue()
        # State id -> requests that wait until the one before them is stored. Sent together, a retried publish could
        # be overtaken, and the state would see the calls in another order.
        self._lanes: dict[str, deque[_Request]] = {}
        self._publisher: Publisher | None = None
        self._subscription: Subscription | None = None
        self._sender: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Workflow {self.stream} in_flight={self.in_flight} late_answers={self.late_answers}>"

    async def __aenter__(self) -> "Workflow":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._pending)

    @property
    def held(self) -> bool:
        """Whether requests wait here, because the stream is full or NATS is away."""
        return self._publisher is not None and self._publisher.held

    async def start(self) -> None:
        """Subscribe to the answers; to be called once. Raises BusUnavailableError, BusClosedError.

        How the entrypoint is partitioned is read here, so a client is to be started again after that was changed.
        """
        self._partitions = await self._find_partitions()
        self._inbox = self._answers or self._bus.new_inbox()
        self._subscription = await self._bus.subscribe(self._inbox, self._on_answer)
        self._publisher = self._bus.publisher(self.stream, give_up_s=self._give_up_s)
        self._sender = asyncio.create_task(self._send(self._publisher), name=f"client {self.stream}")
        self._sender.add_done_callback(self._on_sender_end)

    async def close(self) -> None:
        """Fail what is in flight with the outcome `unavailable`, and unsubscribe. Repeating it is fine."""
        publisher, self._publisher = self._publisher, None
        if publisher is None or self._subscription is None or self._sender is None:
            return
        self._fail_all("the client was closed before the answer came")
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await self._subscription.unsubscribe()
        await publisher.close()

    def predict(
        self,
        inputs: Any,
        *,
        state_id: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "asyncio.Future[Any]":
        """Send a request and return the future of its first answer, as `payload.decode_value` gives it.

        inputs: anything `payload.encode_value` takes. The value is None when the workflow answers without a payload.
        state_id: requests of one id are stored in the order of the calls. request_id: the same id within the stream's
        duplicate window is stored once, so a second request under it gets no answer of its own; nodes skip it for ten
        minutes after it was cancelled.

        The future raises PredictionError: outcome `timeout`, `unavailable` (stream full, NATS away, client closed),
        `too-large` (than the server takes), or what the workflow says, mostly `failed`. Cancelling it
        cancels the request: nodes that have not begun to handle it skip it.
        Raises at once, with nothing sent: EncodeError, MessageTooLargeError; BusClosedError when the client is not
        open; ValueError for a wrong argument, or for a request_id that is in flight.
        """
        first = _FirstAnswer()
        request = self._register(first, inputs, state_id, timeout_s, request_id, headers)
        first.future.add_done_callback(lambda _: self._abandon(request))
        return first.future

    async def predict_all(
        self,
        inputs: Any,
        *,
        state_id: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        comes_again: bool = False,
    ) -> AsyncIterator[Reply]:
        """Send a request and yield its answers until the last one, which carries the outcome.

        timeout_s: for all answers together. An answer that only closes the reply (no payload) is not yielded.
        Leaving the iteration early cancels the request, unless it `comes_again` under its id: then it is forgotten.
        Arguments and errors are those of `predict`; they are raised from the iteration.
        """
        every = _EveryAnswer()
        request = self._register(every, inputs, state_id, timeout_s, request_id, headers)
        try:
            while (item := await every.queue.get()) is not None:
                if isinstance(item, PredictionError):
                    raise item
                yield item
        finally:
            if comes_again:
                self._forget(request)
            else:
                self._abandon(request)

    # --- sending ---

    async def _find_partitions(self) -> Partitions | None:
        """Return how requests are to be published, None for a workflow whose first node takes them as they come."""
        try:
            written = (await self._bus.stream_state(self.stream)).metadata.get(names.ENTRYPOINT_METADATA)
        except NotFoundError:  # not deployed yet: its first partition reads what has none
            return None
        return Partitions.model_validate_json(written) if written else None

    def _subject_of(self, request: "_Request") -> str:
        if self._partitions is None:
            return self._subject
        return self._partitions.subject(self._subject, request.state_id, request.request_id)

    def _register(
        self,
        receiver: "_FirstAnswer | _EveryAnswer",
        inputs: Any,
        state_id: str,
        timeout_s: float,
        request_id: str | None,
        headers: Mapping[str, str] | None,
    ) -> "_Request":
        """Put a new request into the table, then into the outbox: an answer must never come before its entry."""
        if self._publisher is None or self._sender is None or self._sender.done():
            raise BusClosedError(f"the client of {self.stream} is not open; use it inside `async with`")
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s is {timeout_s}; give seconds above 0")
        request_id = new_request_id() if request_id is None else self._checked_id(request_id)
        passed = dict(headers or {})
        message = Message(
            request_id=request_id,
            payload=payload.encode_value(inputs),
            from_node=names.ENTRYPOINT,
            state_id=state_id,
            deadline_ms=self._clock.time_ns() // 1_000_000 + math.ceil(timeout_s * 1000),
            reply_to=self._inbox,
            traceparent=passed.pop(TRACE_HEADER, ""),
            headers=passed,
        )
        data = wire.fit(self._encode(message), self._publisher.limit_bytes)
        request = _Request(request_id, state_id, timeout_s, data, receiver)
        self._pending[request_id] = request
        # The loop keeps its timers in one heap: no task and no table of our own.
        request.timer = self._clock.call_later(timeout_s, partial(self._expire, request))
        self._enqueue(request)
        return request

    def _checked_id(self, request_id: str) -> str:
        if not request_id or not request_id.isprintable():  # it becomes the value of a header
            raise ValueError(f"{request_id!r} cannot be a request id; give printable characters")
        if request_id in self._pending:
            raise ValueError(f"request {request_id} is in flight; give each request an id of its own")
        return request_id

    def _enqueue(self, request: "_Request") -> None:
        if request.state_id:
            if (lane := self._lanes.get(request.state_id)) is not None:
                lane.append(request)
                return
            self._lanes[request.state_id] = deque()
        self._outbox.put_nowait(request)

    async def _send(self, publisher: Publisher) -> None:
        """Hand the outbox to the publisher, which bounds what is unconfirmed."""
        while True:
            request = await self._outbox.get()
            if self._pending.get(request.request_id) is not request:  # cancelled or timed out before its turn
                self._on_confirm(request, None)
                continue
            data, request.data = request.data, b""
            confirm = partial(self._on_confirm, request)
            try:
                subject = self._subject_of(request)
                await publisher.publish(subject, data, message_id=request.request_id, confirm=confirm)
            except KrtError as error:
                self._on_confirm(request, error)

    def _on_confirm(self, request: "_Request", error: KrtError | None) -> None:
        """Note what became of a publish, and let the next request of the same state id go."""
        request.is_stored = error is None
        if request.state_id:
            lane = self._lanes[request.state_id]
            if lane:
                self._outbox.put_nowait(lane.popleft())
            else:
                del self._lanes[request.state_id]
        if error is not None:
            self._fail(request, str(error), _outcome_of(error))

    def _on_sender_end(self, sender: "asyncio.Task[None]") -> None:
        if sender.cancelled() or (error := sender.exception()) is None:
            return
        log.error("the client of %s sends nothing any more", self.stream, exc_info=error, extra={"action": "give-up"})
        self._fail_all(f"the client broke: {error!r}")

    # --- ends of a request ---

    def _on_answer(self, answer: CoreMessage) -> None:
        message = Message()
        try:
            message = self._decode(answer.data)
            self._hand_over(message)
        except DecodeError as error:
            self._on_unreadable(error, message)

    def _hand_over(self, message: Message) -> None:
        request = self._pending.get(message.request_id)
        if request is None:
            self.late_answers += 1
        elif message.type is MessageType.ERROR:
            detail = message.error or "the workflow answered with an error without a text"
            self._fail(request, detail, message.outcome or ReplyOutcome.FAILED, message.from_node)
        elif request.receiver.answer(message):
            self._forget(request)

    def _on_unreadable(self, error: DecodeError, message: Message) -> None:
        """Fail the request that the answer belongs to; the envelope or the payload in it cannot be read."""
        request = self._pending.get(message.request_id or error.request_id)
        if request is None:
            log.warning("an answer cannot be read: %s", error, extra={"action": "unreadable"})
            return
        self._fail(request, f"the answer cannot be read: {error}", ReplyOutcome.FAILED, message.from_node)

    def _expire(self, request: "_Request") -> None:
        detail = f"no answer within {request.timeout_s:g} s"
        if not request.is_stored:
            detail += "; it is not known to be stored, because NATS is away or the stream is full"
        self._fail(request, detail, ReplyOutcome.TIMEOUT)

    def _fail_all(self, detail: str) -> None:
        for request in list(self._pending.values()):
            self._fail(request, detail, ReplyOutcome.UNAVAILABLE)

    def _fail(self, request: "_Request", detail: str, outcome: str, node: str = "") -> None:
        if self._forget(request):
            error = PredictionError(detail, outcome=str(outcome), request_id=request.request_id, node=node)
            request.receiver.fail(error)

    def _abandon(self, request: "_Request") -> None:
        """Forget a request that nobody waits for any more; if it has not ended and was sent, tell the nodes."""
        if self._forget(request) and not request.data and self._cancel_subject:
            self._bus.send(self._cancel_subject, request.request_id.encode())

    def _forget(self, request: "_Request") -> bool:
        """Take the request out of the table; False if it had ended before."""
        if self._pending.get(request.request_id) is not request:
            return False
        del self._pending[request.request_id]
        if request.timer is not None:
            request.timer.cancel()
        return True


class _FirstAnswer:
    """Receives for `predict`."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(self, message: Message) -> bool:
        """Take an answer; returns whether it ends the request. Raises DecodeError."""
        value = payload.decode_value(message.payload)
        if not self.future.done():
            self.future.set_result(value)
        return True

    def fail(self, error: PredictionError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _EveryAnswer:
    """Receives for `predict_all`. None in the queue is its end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Reply | PredictionError | None] = asyncio.Queue()

    def answer(self, message: Message) -> bool:
        """Take an answer; returns whether it ends the request. Raises DecodeError."""
        value = payload.decode_value(message.payload)
        is_last = bool(message.outcome)
        if message.payload or not is_last:
            kind, node, outcome = message.type, message.from_node, message.outcome
            self.queue.put_nowait(
                Reply(value=value, type=kind, from_node=node, outcome=outcome, headers=message.headers)
            )
        if is_last:
            self.queue.put_nowait(None)
        return is_last

    def fail(self, error: PredictionError) -> None:
        self.queue.put_nowait(error)


class _Request:
    """A request in flight. data: the envelope until it is handed to the publisher."""

    __slots__ = ("data", "is_stored", "receiver", "request_id", "state_id", "timeout_s", "timer")

    def __init__(
        self, request_id: str, state_id: str, timeout_s: float, data: bytes, receiver: _FirstAnswer | _EveryAnswer
    ) -> None:
        self.request_id = request_id
        self.state_id = state_id
        self.timeout_s = timeout_s
        self.data = data
        self.receiver = receiver
        self.timer: TimerHandle | None = None
        self.is_stored = False


def _outcome_of(error: KrtError) -> ReplyOutcome:
    """Return how a request ended that the stream did not take."""
    if isinstance(error, (StreamFullError, BusUnavailableError, BusClosedError)):
        return ReplyOutcome.UNAVAILABLE
    if isinstance(error, MessageTooLargeError):
        return ReplyOutcome.TOO_LARGE
    return ReplyOutcome.INVALID if isinstance(error, MessageError) else ReplyOutcome.FAILED
