"""NATS over WebSocket, as a transport of nats-py's client. The only place that imports aiohttp, the extra `websocket`.

nats-py has one of its own, which cannot take up TLS again after a failed handshake, leaves sessions open, waits without
a limit for a server that does not answer, and drops what follows a line in the same frame.
"""

import asyncio
import contextlib
import ssl
from typing import Any
from urllib.parse import ParseResult

import aiohttp
from nats.aio.transport import Transport

from runtime.bus.direct import NoWebSocketError

# Seconds that a server has for its part of the closing handshake.
CLOSE_TIMEOUT_S = 1.0
# Seconds in which a server that does not like our certificate says so.
ALERT_TIMEOUT_S = 0.5
HTTPS_PORT = 443


class WebSocketTransport(Transport):  # type: ignore[misc]  # nats-py is not typed here
    """One connection, opened once. Its methods are called by nats-py's client, see `nats.aio.transport`."""

    def __init__(self, tls_name: str | None = None) -> None:
        """Prepare it. tls_name: whose certificate it has to be, if not that of the address's host."""
        self._tls_name = tls_name
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._unsent: list[bytes] = []
        # What has arrived behind the line that `readline` returned.
        self._unread = b""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        await self._open(uri, None, connect_timeout)

    async def connect_tls(
        self, uri: ParseResult | str, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: float
    ) -> None:
        """Open `wss://`. Called again, with a host's name, because the server asks for TLS: it has it by then."""
        if not isinstance(uri, str):
            await self._open(uri, ssl_context, connect_timeout)

    async def _open(self, uri: ParseResult, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        """Raises OSError, ssl.SSLError among them, and NoWebSocketError."""
        # The user is told to NATS, and not to HTTP.
        address = uri._replace(netloc=uri.netloc.rpartition("@")[2]).geturl()
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(timeout_s):
                self._socket = await self._session.ws_connect(
                    address,
                    ssl=tls or True,
                    server_hostname=self._tls_name if tls else None,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                    max_msg_size=0,  # the server's own limit holds
                )
        except aiohttp.ClientResponseError as error:
            raise NoWebSocketError(f"no NATS over WebSocket answers there: HTTP status {error.status}") from error
        except aiohttp.ClientError as error:
            if tls is not None:
                await _raise_alert(uri, tls, self._tls_name)
            # aiohttp's own classes hide those of TLS, by which a refusal is told from an outage.
            raise error.__cause__ if isinstance(error.__cause__, OSError) else ConnectionError(str(error)) from None
        finally:
            if self._socket is None:
                await self.abort()

    def write(self, payload: bytes) -> None:
        self._unsent.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self._unsent.extend(payload)

    async def drain(self) -> None:
        """Send what was written, as one frame. Raises ConnectionError."""
        frame = b"".join(self._unsent)
        self._unsent.clear()
        if frame:
            await self._opened().send_bytes(frame)

    async def read(self, buffer_size: int) -> bytes:
        """Return what has arrived, whatever its size; b"" at the end."""
        if self._unread:
            rest, self._unread = self._unread, b""
            return rest
        message = await self._opened().receive()
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ConnectionError(str(message.data)) from message.data
        # A frame of any other type ends the connection: NATS sends binary ones alone.
        return message.data if message.type is aiohttp.WSMsgType.BINARY else b""

    async def readline(self) -> bytes:
        line, end, self._unread = (await self.read(0)).partition(b"\n")
        return line + end

    def at_eof(self) -> bool:
        return self._socket is None or self._socket.closed

    def close(self) -> None:
        """Called before `wait_closed`, which does it."""

    async def wait_closed(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        await self.abort()

    async def abort(self) -> None:
        """End the connection, without a farewell. Repeating it is fine."""
        if self._session is not None:
            await self._session.close()

    def __bool__(self) -> bool:
        return True

    def _opened(self) -> Any:
        if self._socket is None:
            raise ConnectionError("the WebSocket is not open")
        return self._socket


async def _raise_alert(uri: ParseResult, tls: ssl.SSLContext, tls_name: str | None) -> None:
    """Raise ssl.SSLError if the server refuses our certificate.

    With TLS 1.3 it does so after the handshake, and hangs up on the HTTP request, which may take its alert along.
    """
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(ALERT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                uri.hostname, uri.port or HTTPS_PORT, ssl=tls, server_hostname=tls_name
            )
            try:
                await reader.read(1)
            finally:
                writer.close()
