"""Requests on core NATS: one subscription takes the replies to all of them.

nats-py's own `request` costs a node four times as much: it makes a random id, a task with a timer, and parses the reply
line by line.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from runtime.bus.base import CoreMessage, Headers
from runtime.bus.connection import Connection
from runtime.bus.core import OnAnswer, Question
from runtime.bus.direct import DirectSubscription, header_block
from runtime.errors import (
    AccessError,
    BusClosedError,
    BusError,
    BusUnavailableError,
    MessageTooLargeError,
    NoRespondersError,
)

# Status of the server's own reply to a request that nobody listens to.
_NO_RESPONDERS = "503"

# What a request ends with.
_End = CoreMessage | BusError


class _Waiting(NamedTuple):
    subject: str
    end: Callable[[_End], None]


class Replies:
    """The requests of one connection that wait for an answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._numbers = itertools.count()
        # Reply subject -> who waits for it.
        self._waiting: dict[str, _Waiting] = {}
        self._subscription: DirectSubscription | None = None
        self._subscribing = asyncio.Lock()
        connection.on_violation = self._on_violation

    async def request(self, subject: str, data: bytes, headers: Headers | None, timeout_s: float) -> CoreMessage:
        """See `bus.core.Core.request`."""
        block = header_block(headers) if headers else b""
        self._check(subject, data, block)
        # Of one length, so that no reply subject begins with another one, see `discard`.
        reply = self._new_reply()
        answer: asyncio.Future[CoreMessage] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = _Waiting(subject, partial(_end_future, answer))
        try:
            async with asyncio.timeout(timeout_s):
                if self._subscription is None:
                    await self._subscribe()
                self._connection.write(subject, data, reply, block)
                return await answer
        except TimeoutError as error:
            # It may still wait for a reconnect, and nobody would hear of its answer.
            self._connection.discard(reply)
            raise BusUnavailableError(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            self._waiting.pop(reply, None)

    async def scatter(self, questions: Sequence[Question], on_answer: OnAnswer) -> "ScatteredQuestions":
        """See `bus.core.Core.scatter`."""
        blocks = _blocks(questions)
        for question, block in zip(questions, blocks, strict=True):
            self._check(question.subject, question.data, block)
        if self._subscription is None:
            await self._subscribe()
        reply = self._new_reply()
        replies = [f"{reply}-{number}" for number in range(len(questions))]
        for number, (question, block) in enumerate(zip(questions, blocks, strict=True)):
            self._waiting[replies[number]] = _Waiting(question.subject, partial(on_answer, number))
            self._connection.write(question.subject, question.data, replies[number], block)
        return ScatteredQuestions(self, reply, replies)

    def forget(self, reply_prefix: str, replies: Sequence[str]) -> None:
        """Wait for none of these replies, and do not send what they would answer."""
        open_ones = [reply for reply in replies if self._waiting.pop(reply, None) is not None]
        if open_ones:
            self._connection.discard(reply_prefix)

    def _new_reply(self) -> str:
        return f"{self._inbox}.{next(self._numbers):012}"

    def _check(self, subject: str, data: bytes, block: bytes) -> None:
        if self._connection.closed.is_set():
            raise BusClosedError("the connection to NATS is closed")
        if len(data) + len(block) > self._connection.max_payload_bytes:
            raise MessageTooLargeError(f"a request of {len(data)} bytes on {subject} is larger than NATS takes")

    async def _subscribe(self) -> None:
        async with self._subscribing:
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_reply)

    def _on_reply(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        if headers and headers.get("Status") == _NO_RESPONDERS:
            waiting.end(NoRespondersError(f"nobody listens on {waiting.subject}"))
        else:
            waiting.end(CoreMessage(subject, data, reply, headers or {}))

    def _on_violation(self, violation: str) -> None:
        """End the requests on a forbidden subject, which the server has dropped. It names the subject in lower case."""
        for reply, waiting in list(self._waiting.items()):
            if f'"{waiting.subject.lower()}"' in violation.lower():
                del self._waiting[reply]
                waiting.end(AccessError(f"NATS forbids a request: {violation}; see `krt permissions`"))


class ScatteredQuestions:
    """See `bus.core.Scattered`."""

    def __init__(self, owner: Replies, reply_prefix: str, replies: Sequence[str]) -> None:
        self._owner = owner
        self._reply_prefix = reply_prefix
        self._replies = replies

    def close(self) -> None:
        self._owner.forget(self._reply_prefix, self._replies)


def _end_future(answer: "asyncio.Future[CoreMessage]", end: _End) -> None:
    if answer.done():
        return
    if isinstance(end, CoreMessage):
        answer.set_result(end)
    else:
        answer.set_exception(end)


def _blocks(questions: Sequence[Question]) -> list[bytes]:
    """Return the header block of each question; neighbours that share their headers share the block."""
    blocks: list[bytes] = []
    headers: Headers | None = None
    block = b""
    for question in questions:
        if question.headers is not headers:
            headers = question.headers
            block = header_block(headers) if headers else b""
        blocks.append(block)
    return blocks
