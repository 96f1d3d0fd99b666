"""Requests in flight, and what becomes of their answers."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime import payload
from runtime.clock import TimerHandle
from runtime.errors import (
    BusClosedError,
    BusUnavailableError,
    KrtError,
    MessageError,
    MessageTooLargeError,
    PredictionError,
    StreamFullError,
)
from runtime.message import Message, MessageType, ReplyOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer to a request. outcome: "" unless the sender knew that it is the last."""

    value: Any
    type: MessageType
    from_node: str
    outcome: str
    headers: Mapping[str, str]


class FirstAnswer:
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


class EveryAnswer:
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


class Request:
    """A request in flight.

    data: the envelope until it is handed to the publisher. unread: answers from the first one on whose payload is
    still to be fetched.
    """

    __slots__ = ("data", "is_stored", "receiver", "request_id", "state_id", "timeout_s", "timer", "unread")

    def __init__(
        self, request_id: str, state_id: str, timeout_s: float, data: bytes, receiver: FirstAnswer | EveryAnswer
    ) -> None:
        self.request_id = request_id
        self.state_id = state_id
        self.timeout_s = timeout_s
        self.data = data
        self.receiver = receiver
        self.timer: TimerHandle | None = None
        self.is_stored = False
        self.unread: deque[Message] = deque()


def outcome_of(error: KrtError) -> ReplyOutcome:
    """Return how a request ended that the stream did not take."""
    if isinstance(error, (StreamFullError, BusUnavailableError, BusClosedError)):
        return ReplyOutcome.UNAVAILABLE
    if isinstance(error, MessageTooLargeError):
        return ReplyOutcome.TOO_LARGE
    return ReplyOutcome.INVALID if isinstance(error, MessageError) else ReplyOutcome.FAILED
