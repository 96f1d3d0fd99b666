"""Requests on core NATS: one subscription takes the replies to all of them.

nats-py's own `request` costs a node four times as much: it makes a random id, a task with a timer, and parses the reply
line by line.
"""

import asyncio
import itertools

from runtime.bus.base import CoreMessage, Headers
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectSubscription, header_block
from runtime.errors import BusClosedError, BusUnavailableError, MessageTooLargeError, NoRespondersError

# Status of the server's own reply to a request that nobody listens to.
_NO_RESPONDERS = "503"


class Replies:
    """The requests of one connection that wait for an answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.new_inbox()
        self._numbers = itertools.count()
        # Reply subject -> the request's end.
        self._waiting: dict[str, asyncio.Future[CoreMessage]] = {}
        self._subscription: DirectSubscription | None = None
        self._subscribing = asyncio.Lock()

    async def request(self, subject: str, data: bytes, headers: Headers | None, timeout_s: float) -> CoreMessage:
        """See `bus.base.Bus.request`."""
        if self._connection.closed.is_set():
            raise BusClosedError("the connection to NATS is closed")
        block = header_block(headers) if headers else b""
        if len(data) + len(block) > self._connection.max_payload_bytes:
            raise MessageTooLargeError(f"a request of {len(data)} bytes on {subject} is larger than NATS takes")
        # Of one length, so that no reply subject begins with another one, see `discard`.
        reply = f"{self._inbox}.{next(self._numbers):012}"
        answer: asyncio.Future[CoreMessage] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        try:
            async with asyncio.timeout(timeout_s):
                if self._subscription is None:
                    await self._subscribe()
                self._connection.write(subject, data, reply, block)
                message = await answer
        except TimeoutError as error:
            # It may still wait for a reconnect, and nobody would hear of its answer.
            self._connection.discard(reply)
            raise BusUnavailableError(f"no answer on {subject} in {timeout_s:g} s") from error
        finally:
            del self._waiting[reply]
        if message.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError(f"nobody listens on {subject}")
        return message

    async def _subscribe(self) -> None:
        async with self._subscribing:
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_reply)

    def _on_reply(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        answer = self._waiting.get(subject)
        if answer is not None and not answer.done():
            answer.set_result(CoreMessage(subject, data, reply, headers or {}))
