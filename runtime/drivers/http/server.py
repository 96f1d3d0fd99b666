"""The HTTP server of a driver: uvicorn on a socket that is bound already, on the loop that the driver runs on.

Signals are the process's own business. `stop` lets what runs finish. What a client may do is in `protocol.py`.
"""

import contextlib
import math
import ssl
from collections.abc import Callable, Iterator
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from runtime.drivers.http.protocol import HttpLimits, limited_protocol


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
            http=limited_protocol(limits),
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
