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
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from runtime import payload, wire
from runtime.bus.base import GIVE_UP_S, Bus, CoreMessage, Publisher, Subscription
from runtime.bus.claims import Claims
from runtime.client.request import EveryAnswer, FirstAnswer, Reply, Request, outcome_of
from runtime.clock import Clock, SystemClock
from runtime.errors import (
    BusClosedError,
    BusUnavailableError,
    DecodeError,
    KrtError,
    NotFoundError,
    PredictionError,
    RevisionError,
)
from runtime.message import Claim, Message, MessageType, ReplyOutcome, new_request_id
from runtime.spec import names
from runtime.spec.claims import CLAIMS_METADATA, ClaimsSpec, claim_object
from runtime.spec.node import Partitions

log = logging.getLogger(__name__)

# Header of a request that becomes the envelope's own field: W3C trace context.
TRACE_HEADER = "traceparent"
# Seconds that a request may take when the caller does not say.
DEFAULT_TIMEOUT_S = 30.0
# Seconds before an answer in an object store is asked for again, when NATS was away.
FETCH_AGAIN_S = 0.5


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
        max_claim_bytes: int = wire.MAX_CLAIM_BYTES,
    ) -> None:
        """Prepare; nothing is sent.

        give_up_s: how long a request is retried that the stream does not take. max_claim_bytes: of a request, or an
        answer, that is larger than a message and lies in an object store.
        """
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
        self._decode = route.decode if route else partial(wire.decode, takes_claims=True)
        self._max_claim_bytes = max_claim_bytes
        # How requests are to be published, and what is too large for a message; read at the start.
        self._partitions: Partitions | None = None
        self._claims: Claims | None = None
        self._inbox = ""
        self._pending: dict[str, Request] = {}
        self._outbox: asyncio.Queue[Request] = asyncio.Queue()
        # State id -> requests that wait until the one before them is stored. Sent together, a retried publish could
        # be overtaken, and the state would see the calls in another order.
        self._lanes: dict[str, deque[Request]] = {}
        self._publisher: Publisher | None = None
        self._subscription: Subscription | None = None
        self._sender: asyncio.Task[None] | None = None
        # What is being put or fetched, each beside the others: a large request holds up no small one.
        self._carrying: set[asyncio.Task[None]] = set()

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
    def carrying(self) -> int:
        """Requests and answers that are being put into the object store of large ones, or fetched from there."""
        return len(self._carrying)

    @property
    def held(self) -> bool:
        """Whether requests wait here, because the stream is full or NATS is away."""
        return self._publisher is not None and self._publisher.held

    async def start(self) -> None:
        """Subscribe to the answers; to be called once. Raises BusUnavailableError, BusClosedError.

        How the entrypoint is partitioned is read here, so a client is to be started again after that was changed.
        """
        await self._read_metadata()
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
        working = [self._sender, *self._carrying]
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
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
        first = FirstAnswer()
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
        every = EveryAnswer()
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

    async def _read_metadata(self) -> None:
        """Find out how requests are to be published; a workflow that says nothing takes them as they come."""
        try:
            written = (await self._bus.stream_state(self.stream)).metadata
        except NotFoundError:  # not deployed yet: its first partition reads what has none
            return
        if text := written.get(names.ENTRYPOINT_METADATA):
            self._partitions = Partitions.model_validate_json(text)
        if text := written.get(CLAIMS_METADATA):
            spec = ClaimsSpec.model_validate_json(text)
            self._claims = Claims(
                self._bus,
                spec.store,
                self._clock,
                room_bytes=spec.room_bytes,
                max_bytes=self._max_claim_bytes,
                give_up_s=self._give_up_s,
            )

    def _subject_of(self, request: Request) -> str:
        if self._partitions is None:
            return self._subject
        return self._partitions.subject(self._subject, request.state_id, request.request_id)

    def _register(
        self,
        receiver: FirstAnswer | EveryAnswer,
        inputs: Any,
        state_id: str,
        timeout_s: float,
        request_id: str | None,
        headers: Mapping[str, str] | None,
    ) -> Request:
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
        request = Request(request_id, state_id, timeout_s, self._fitted(self._encode(message)), receiver)
        self._pending[request_id] = request
        # The loop keeps its timers in one heap: no task and no table of our own.
        request.timer = self._clock.call_later(timeout_s, partial(self._expire, request))
        self._enqueue(request)
        return request

    def _fitted(self, data: bytes) -> bytes:
        """Return an envelope that is sent, or claimed later, as it is. Raises MessageTooLargeError."""
        assert self._publisher is not None, "looked at by _register"
        if self._claims is None or not self._is_large(data):
            return wire.fit(data, self._publisher.limit_bytes)
        self._claims.check(len(data))
        return data

    def _is_large(self, data: bytes) -> bool:
        assert self._publisher is not None, "looked at by _register"
        return len(data) > self._publisher.limit_bytes - wire.HEADER_ROOM_BYTES

    def _checked_id(self, request_id: str) -> str:
        if not request_id or not request_id.isprintable():  # it becomes the value of a header
            raise ValueError(f"{request_id!r} cannot be a request id; give printable characters")
        if request_id in self._pending:
            raise ValueError(f"request {request_id} is in flight; give each request an id of its own")
        return request_id

    def _enqueue(self, request: Request) -> None:
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
            if self._claims is not None and self._is_large(data):
                self._carry(self._publish(publisher, request, data, self._claims), f"put {request.request_id}")
            else:
                await self._publish(publisher, request, data)

    async def _publish(self, publisher: Publisher, request: Request, data: bytes, claims: Claims | None = None) -> None:
        """Hand one request to the publisher. claims: where its payload goes first."""
        confirm = partial(self._on_confirm, request)
        try:
            subject = self._subject_of(request)
            if claims is not None:
                data = await claims.fit(data, publisher.limit_bytes, partial(claim_object, subject, request.request_id))
                if self._pending.get(request.request_id) is not request:  # nobody waits for it any more
                    confirm(None)
                    return
            await publisher.publish(subject, data, message_id=request.request_id, confirm=confirm)
        except KrtError as error:
            confirm(error)

    def _carry(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"{self.stream} {name}")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        task.add_done_callback(self._on_sender_end)

    def _on_confirm(self, request: Request, error: KrtError | None) -> None:
        """Note what became of a publish, and let the next request of the same state id go."""
        request.is_stored = error is None
        if request.state_id:
            lane = self._lanes[request.state_id]
            if lane:
                self._outbox.put_nowait(lane.popleft())
            else:
                del self._lanes[request.state_id]
        if error is not None:
            self._fail(request, str(error), outcome_of(error))

    def _on_sender_end(self, sender: "asyncio.Task[None]") -> None:
        if sender.cancelled() or (error := sender.exception()) is None:
            return
        log.error("the client of %s sends nothing any more", self.stream, exc_info=error, extra={"action": "give-up"})
        self._fail_all(f"the client broke: {error!r}")

    # --- ends of a request ---

    def _on_answer(self, answer: CoreMessage) -> None:
        try:
            message = self._decode(answer.data)
        except DecodeError as error:
            self._on_unreadable(error, Message())
            return
        request = self._pending.get(message.request_id)
        if request is None or (message.claim is None and not request.unread):
            self._hand_over(message)
            return
        request.unread.append(message)
        if len(request.unread) == 1:
            self._carry(self._read_claimed(request), f"fetch {request.request_id}")

    async def _read_claimed(self, request: Request) -> None:
        """Fetch answers that lie in an object store, and hand over all that came meanwhile in their order."""
        while request.unread and self._pending.get(request.request_id) is request:
            message = request.unread[0]
            try:
                if message.claim is not None:
                    message = message._replace(payload=await self._fetch(message.claim))
            except (BusUnavailableError, RevisionError):
                await self._clock.sleep(FETCH_AGAIN_S)
                continue
            except KrtError as error:
                self._on_unreadable(error, message)
                return
            self._hand_over(message)
            request.unread.popleft()

    async def _fetch(self, claim: Claim) -> bytes:
        if self._claims is None:
            raise DecodeError(f"stream {self.stream} names no object store for large payloads", reason="claim")
        return await self._claims.fetch(claim)

    def _hand_over(self, message: Message) -> None:
        request = self._pending.get(message.request_id)
        if request is None:
            self.late_answers += 1
        elif message.type is MessageType.ERROR:
            detail = message.error or "the workflow answered with an error without a text"
            self._fail(request, detail, message.outcome or ReplyOutcome.FAILED, message.from_node)
        else:
            try:
                if request.receiver.answer(message):
                    self._forget(request)
            except DecodeError as error:
                self._on_unreadable(error, message)

    def _on_unreadable(self, error: KrtError, message: Message) -> None:
        """Fail the request that the answer belongs to; the envelope or the payload in it cannot be read."""
        request_id = message.request_id or (error.request_id if isinstance(error, DecodeError) else "")
        request = self._pending.get(request_id)
        if request is None:
            log.warning("an answer cannot be read: %s", error, extra={"action": "unreadable"})
            return
        self._fail(request, f"the answer cannot be read: {error}", ReplyOutcome.FAILED, message.from_node)

    def _expire(self, request: Request) -> None:
        detail = f"no answer within {request.timeout_s:g} s"
        if not request.is_stored:
            detail += "; it is not known to be stored, because NATS is away or the stream is full"
        self._fail(request, detail, ReplyOutcome.TIMEOUT)

    def _fail_all(self, detail: str) -> None:
        for request in list(self._pending.values()):
            self._fail(request, detail, ReplyOutcome.UNAVAILABLE)

    def _fail(self, request: Request, detail: str, outcome: str, node: str = "") -> None:
        if self._forget(request):
            error = PredictionError(detail, outcome=str(outcome), request_id=request.request_id, node=node)
            request.receiver.fail(error)

    def _abandon(self, request: Request) -> None:
        """Forget a request that nobody waits for any more; if it has not ended and was sent, tell the nodes."""
        if self._forget(request) and not request.data and self._cancel_subject:
            self._bus.send(self._cancel_subject, request.request_id.encode())

    def _forget(self, request: Request) -> bool:
        """Take the request out of the table; False if it had ended before."""
        if self._pending.get(request.request_id) is not request:
            return False
        del self._pending[request.request_id]
        if request.timer is not None:
            request.timer.cancel()
        return True
