"""The HTTP server of a driver: uvicorn on a socket that is bound already, on the loop that the driver runs on.

Signals are the process's own business. `stop` lets what runs finish. A client that sends too slowly is let go.
"""

import asyncio
import contextlib
import math
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socket import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a client may use up. Times in seconds.

    headers_s: until a request's headers are there, and for the rest of a body that nobody wants any more. body_s: until
    its body is there. idle_s: between two requests of a connection. connections: at once, busy or idle.
    """

    headers_s: float = 10.0
    body_s: float = 60.0
    idle_s: int = 60
    connections: int = 1_000


class HttpServer(uvicorn.Server):
    """Serves an app until `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        limits: HttpLimits,
        *,
        tls: ssl.SSLContext | None,
        grace_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        """grace_s: how long running requests may take after `stop`. on_ready: called once connections are accepted."""
        config = uvicorn.Config(
            app,
            loop="none",
            http=_protocol(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=limits.idle_s,
            timeout_graceful_shutdown=math.ceil(grace_s),
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def serve_on(self, bound: socket) -> None:
        """Serve until `stop`; the socket is closed then."""
        await self.serve(sockets=[bound])

    def stop(self) -> None:
        """Take no new connections; `serve_on` returns when the running requests are answered."""
        self.should_exit = True

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(limits: HttpLimits) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit on the time in which headers arrive, which it does not have."""

    class Impatient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._watch(True)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            sending = self.conn.their_state
            # A part of the headers, or of a body whose request is answered already.
            answered = self.cycle is not None and self.cycle.response_complete
            self._watch(sending is h11.IDLE or (sending is h11.SEND_BODY and answered))

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch(False)
            super().connection_lost(exc)

        def _watch(self, watched: bool) -> None:
            if watched and self._late is None:
                self._late = self.loop.call_later(limits.headers_s, self.transport.close)
            elif not watched and self._late is not None:
                self._late.cancel()
                self._late = None

    return Impatient
