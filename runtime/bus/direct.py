"""nats-py's client with a short way in and out for the messages of a workflow.

A message of nats-py's own costs a `Msg`, a queue entry and a turn of a task on its way in, and a header check and
several calls on its way out: together a third of what a node spends on a message (`docs/performance.md`). This client
hands an arriving message to its callback at once, and takes a whole batch of outgoing ones as one piece.

It overrides one private method of nats-py and calls two, so `Pipfile` keeps nats-py below the next minor release, and
`test/unit/bus/test_direct.py` says what has to be looked at when that changes. All else stays nats-py's.
"""

from collections.abc import Callable
from typing import Any

from nats.aio.client import Client

from runtime.bus.base import Headers

# The header block of a message that has nothing but an id: nearly all of them.
_ID = "Nats-Msg-Id"
_ID_BLOCK = f"NATS/1.0\r\n{_ID}: ".encode()


# subject, reply ("" for none), data, headers (None for none)
OnArrival = Callable[[str, str, bytes, Headers | None], None]


class DirectSubscription:
    """A subscription whose callback is called by the reading task itself: it only appends or schedules."""

    def __init__(self, client: "DirectClient", subscription: Any) -> None:
        self._client = client
        self._subscription = subscription

    async def drain(self) -> None:
        """Unsubscribe; what the server has sent until then is still handed over. Raises nats-py's errors."""
        try:
            await self._subscription.drain()
        finally:
            self._client.forget(self._subscription)


class DirectClient(Client):  # type: ignore[misc]  # nats-py is not typed here
    """Everything that nats-py's client is, and `subscribe_direct` and `write`."""

    def __init__(self) -> None:
        super().__init__()
        # Number of a subscription -> its callback.
        self._callbacks: dict[int, OnArrival] = {}

    async def subscribe_direct(self, subject: str, callback: OnArrival, queue: str = "") -> DirectSubscription:
        """Subscribe; an exception of the callback goes to the error callback and harms no other message."""

        async def bypassed(_: Any) -> None:
            raise AssertionError("a direct subscription has no queue")

        subscription = await self.subscribe(subject, queue, cb=bypassed)
        self._callbacks[subscription._id] = callback
        return DirectSubscription(self, subscription)

    def forget(self, subscription: Any) -> None:
        """End the short way of a subscription that is no more."""
        self._callbacks.pop(subscription._id, None)

    async def write(self, commands: bytes) -> None:
        """Send commands that `publish_command` made; they leave in the next turn of the loop."""
        await self._send_command(commands)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Overridden: called by the parser for every message."""
        callback = self._callbacks.get(sid)
        if callback is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        parsed: dict[str, str] | None = None
        if headers:
            if headers.startswith(_ID_BLOCK) and headers.find(b"\r\n", len(_ID_BLOCK)) == len(headers) - 4:
                parsed = {_ID: headers[len(_ID_BLOCK) : -4].decode()}
            else:
                parsed = await self._process_headers(headers)
        try:
            callback(subject.decode(), reply.decode(), data, parsed)
        except Exception as error:
            await self._error_cb(error)


def publish_command(subject: str, data: bytes, reply: str, block: bytes) -> bytes:
    """Return the bytes of one PUB, or of one HPUB with a header block that `header_block` made (b"" for none)."""
    if not block:
        return b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
    size = len(block)
    return b"".join((f"HPUB {subject} {reply} {size} {size + len(data)}\r\n".encode(), block, data, b"\r\n"))


def header_block(headers: Headers) -> bytes:
    """Return the bytes of headers. Raises ValueError for a line break in one, which would forge another."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers):
        raise ValueError(f"a header holds a line break: {', '.join(headers)}")
    return f"NATS/1.0\r\n{lines}\r\n".encode()
