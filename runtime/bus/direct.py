"""nats-py's client with a short way in and out for the messages of a workflow.

A message of nats-py's own costs several matches of regular expressions, a `Msg`, a queue entry and a turn of a task on
its way in, and a header check and several calls on its way out: together nearly half of what a node spends on a message
(`docs/performance.md`). This client hands an arriving message to its callback at once, and takes a whole batch of
outgoing ones as one piece.

It replaces nats-py's parser by one that reads whole messages itself and leaves all else to the original, overrides
private methods and calls two. So `Pipfile` keeps nats-py below the next minor release, and
`test/unit/bus/test_direct.py` says what has to be looked at when that changes.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

from runtime.bus.base import Headers

log = logging.getLogger(__name__)

# Bytes of a message whose end has not arrived that are put before the next chunk; a larger one is collected by nats-py.
MAX_BEGUN_BYTES = 64 * 1024

WEBSOCKET_SCHEMES = ("ws", "wss")

# What a header block begins with; one that carries a status goes on in this line.
_VERSION_LINE = b"NATS/1.0\r\n"

# subject, reply ("" for none), data, headers (None for none)
OnArrival = Callable[[str, str, bytes, Headers | None], None]


class NoTlsError(Error):  # type: ignore[misc]  # nats-py is not typed here
    """The server talks in clear, which is not wanted."""


class NoWebSocketError(Error):  # type: ignore[misc]  # nats-py is not typed here
    """What answers at the address does not speak WebSocket, or not in clear."""


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

    # nats-py's own, or `websocket.WebSocketTransport`, of which only those know who have aiohttp.
    _transport: Any

    def __init__(self) -> None:
        super().__init__()
        # Number of a subscription -> its callback.
        self._callbacks: dict[int, OnArrival] = {}
        self._ps = DirectParser(self, self._callbacks)
        # Addresses of the cluster, as the server told last; and whether nothing may be told to a server in clear.
        self.server_count = 1
        self.requires_tls = False

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

    async def drop_transport(self) -> None:
        """End the connection to a server that has refused us; the next try makes its own.

        nats-py leaves it open, or, after a TLS handshake that failed, waits for ever for its end.
        """
        transport, self._transport = self._transport, None
        if isinstance(transport, TcpTransport):
            if transport._io_writer is not None:
                transport._io_writer.transport.abort()
        elif transport is not None:
            await transport.abort()

    async def _connect_to_server(self, server: Any) -> None:
        """Overridden: nats-py would take its own transport for WebSockets, see `websocket.py`, and connect once closed.

        `close` cancels the task that reconnects. Where that falls together with a refused connection, `wait_for` of
        Python 3.11 loses it (https://github.com/python/cpython/issues/86296), and the task would go on for ever. And it
        would leave the connection open to a server that took it and then said nothing, such as a frozen one.
        """
        if self.is_closed and asyncio.current_task() is self._reconnection_task:
            raise asyncio.CancelledError
        await self.drop_transport()
        if server.uri.scheme in WEBSOCKET_SCHEMES:
            from runtime.bus.websocket import WebSocketTransport

            self._transport = WebSocketTransport(server.tls_name)
        await super()._connect_to_server(server)

    async def _send_ping(self, future: Any = None) -> None:
        """Overridden: nats-py writes its PING past the commands that wait for its flusher.

        The PONG would then tell nothing of them: a subscription might be unknown to the server, or be forbidden.
        """
        if self._pending and self.is_connected:
            self._transport.writelines(self._pending)
            self._pending: list[bytes] = []
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        """Overridden: nats-py's reading task dies, in silence, of the answer to a flush that nobody waits for any more.

        That is one that was cancelled or has timed out. Its place in the row stays: the server answers every PING.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Overridden: called by nats-py with what the server says of itself, before anything is told to the server.

        Raises NoTlsError: nats-py would send credentials in clear to a server that does not ask for TLS.
        """
        if self.requires_tls and initial_connection and not info.get("tls_required"):
            raise NoTlsError("the address tls://, ca.crt or tls.crt ask for TLS, and the server does not")
        self.server_count = len(info.get("connect_urls") or ["itself"])
        await super()._process_info(info, initial_connection)
        scheme = self._current_server.uri.scheme
        if scheme in WEBSOCKET_SCHEMES:
            # The servers tell each other's listeners for WebSockets, which nats-py takes for those for TCP.
            for server in self._server_pool:
                server.uri = server.uri._replace(scheme=scheme)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Overridden: called by nats-py's parser for the messages that ours has left to it."""
        callback = self._callbacks.get(sid)
        if callback is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        parsed = None
        if headers:
            parsed = _plain_headers(headers) or await self._process_headers(headers)
        try:
            callback(subject.decode(), reply.decode(), data, parsed)
        except Exception as error:
            await self._error_cb(error)


class DirectParser(Parser):  # type: ignore[misc]  # nats-py is not typed here
    """Reads whole messages of direct subscriptions out of each chunk; nats-py's parser does the rest.

    https://docs.nats.io/reference/reference-protocols/nats-protocol: `MSG subject sid [reply] size`, and `HMSG` with
    the size of the header block before that of both together.
    """

    def __init__(self, client: "DirectClient", callbacks: dict[int, OnArrival]) -> None:
        self._callbacks = callbacks
        self._resets = 0
        super().__init__(client)

    def reset(self) -> None:
        """Forget what has arrived; called by nats-py for every new connection."""
        self._begun = b""
        self._resets += 1
        super().reset()

    async def parse(self, data: bytes = b"") -> None:
        """Overridden: called by the reading task with every chunk."""
        resets = self._resets
        data = self._begun + data if self._begun else data
        self._begun = b""
        begin = await self._finish_large(data)
        while resets == self._resets:
            begin = self._take_messages(data, begin)
            end = _end_of_next(data, begin)
            if not end:
                await self._keep(data[begin:])
                return
            # No more than this one line or message, or nats-py would keep what follows it, and read on by itself.
            await super().parse(data[begin:end])
            begin = end

    async def _finish_large(self, data: bytes) -> int:
        """Let nats-py have what is missing of a message that it collects; return where that ends."""
        if self.state != AWAITING_MSG_PAYLOAD:
            return 0
        missing = int(self.needed) + len(b"\r\n") - len(self.buf)
        await super().parse(data[:missing])
        return missing

    async def _keep(self, rest: bytes) -> None:
        """Put aside the beginning of a line or message, or leave a large message to nats-py to collect."""
        if len(rest) < MAX_BEGUN_BYTES or b"\r\n" not in rest:
            self._begun = rest
        else:
            await super().parse(rest)

    def _take_messages(self, data: bytes, begin: int) -> int:
        """Hand over the whole messages from `begin` on; return where the first thing else begins."""
        callbacks = self._callbacks
        while True:
            line_end = data.find(b"\r\n", begin)
            fields = data[begin:line_end].split() if line_end > 0 else ()
            if len(fields) < 4 or fields[0] not in (b"MSG", b"HMSG"):
                return begin
            body = line_end + 2
            end = body + int(fields[-1])
            callback = callbacks.get(int(fields[2]))
            if callback is None or len(data) < end + 2:
                return begin
            headers, reply = None, b""
            if fields[0] == b"MSG":
                if len(fields) == 5:
                    reply = fields[3]
            else:
                if len(fields) == 6:
                    reply = fields[3]
                head_end = body + int(fields[-2])
                headers = _plain_headers(data[body:head_end])
                if headers is None:  # a status: not worth a parser of our own
                    return begin
                body = head_end
            self._hand_over(callback, fields[1], reply, data[body:end], headers)
            begin = end + 2

    def _hand_over(
        self, callback: OnArrival, subject: bytes, reply: bytes, data: bytes, headers: Headers | None
    ) -> None:
        try:
            callback(subject.decode(), reply.decode(), data, headers)
        except Exception:  # a defect of ours: it harms no other message
            log.exception("a message on %s could not be taken in", subject.decode(), extra={"action": "untaken"})


def _end_of_next(data: bytes, begin: int) -> int:
    """Return where the line, or the message, ends that begins there; 0 when its end has not arrived."""
    line_end = data.find(b"\r\n", begin)
    if line_end < 0:
        return 0
    end = line_end + 2
    if data.startswith((b"MSG ", b"HMSG "), begin):
        end += int(data[begin:line_end].split()[-1]) + 2
    return end if end <= len(data) else 0


def _plain_headers(block: bytes) -> dict[str, str] | None:
    """Return the headers where each is one line with a name of its own and a value, and there is no status; else None.

    nats-py reads headers as those of a mail, which takes longer than all else that is done with a small message.
    """
    if not block.startswith(_VERSION_LINE):
        return None
    try:
        lines = block[len(_VERSION_LINE) : -4].decode().split("\r\n")
    except UnicodeDecodeError:
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not value or name[:1] in " \t":
            return None
        headers[name] = value
    return headers if len(headers) == len(lines) else None


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
