"""One connection of the HTTP server: uvicorn's protocol on a parser in C, with the limits that it does not have.

A client that is slow with what nobody has asked for yet is let go, as is one whose headers are too large, or who sends
request after request without reading an answer. Times and sizes of a body that is wanted are the app's own.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from runtime.drivers.http.answers import JSON, Refusal

BAD_REQUEST, HEAD_TOO_LARGE = 400, 431
# The extension of a request's scope whose `future` is done when its connection is lost: a task that waits for
# `receive` would cost a tenth of the request.
GONE = "krt.gone"
# Bytes that a header has on the wire beside its name and value.
HEADER_FRAME_BYTES = len(b": \r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a client may use up. Times in seconds.

    headers_s: until a request's headers are there, and for the rest of a body that nobody wants any more. body_s: until
    its body is there. idle_s: between two requests of a connection. connections: at once, busy or idle. head_bytes: of
    a request's line with its headers, and of what else is between or after the parts of a body. pipelined: requests of
    one connection that wait for the one before them.
    """

    headers_s: float = 10.0
    body_s: float = 60.0
    idle_s: int = 60
    connections: int = 1_000
    head_bytes: int = 16 * 1024
    pipelined: int = 100


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


def limited_protocol(limits: HttpLimits) -> type[HttpToolsProtocol]:
    """Return the class of connections under these limits; uvicorn makes one for each."""

    class Impatient(HttpToolsProtocol):
        _late: asyncio.TimerHandle | None = None
        # The request that is being answered, or was last; `cycle` is the newest one, which may have to wait for it.
        _served: RequestResponseCycle | None = None
        # Bytes since the last that was understood: the parser keeps what is incomplete, however much it is.
        _unread_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            self._gone = self.loop.create_future()
            self._watch(True)

        def data_received(self, data: bytes) -> None:
            self._unread_bytes += len(data)
            super().data_received(data)
            if self._unread_bytes > limits.head_bytes:
                self.send_400_response("")
            # This is a part of headers, or of an unwanted body.
            self._watch(not self._owes_answer)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch(False)
            self._gone.set_result(None)
            if self._served is not None:  # uvicorn tells only the newest request, and it would never end
                self._served.disconnected = self._owes_answer
                self._served.message_event.set()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["extensions"] = {GONE: {"future": self._gone}}

        def on_headers_complete(self) -> None:
            self._unread_bytes = len(self.url) + sum(
                len(name) + len(value) + HEADER_FRAME_BYTES for name, value in self.headers
            )
            if self._unread_bytes > limits.head_bytes or len(self.pipeline) >= limits.pipelined:
                raise _HeadTooLargeError
            self._unread_bytes = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unread_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._unread_bytes = 0
            super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no request, and end the connection; called by uvicorn for what cannot be parsed."""
            if self.transport.is_closing():
                return
            # While an answer is due, this would be taken for it.
            if not self._owes_answer:
                self.transport.write(_last_answer(self._refusal(msg)))
            self.transport.close()

        @property
        def _owes_answer(self) -> bool:
            return self._served is not None and not self._served.response_complete

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._served = cycle
            super()._start_asgi_task(cycle, app)

        def _refusal(self, detail: str) -> Refusal:
            if self._unread_bytes <= limits.head_bytes:
                return Refusal("invalid", detail, status=BAD_REQUEST)
            detail = f"the headers are larger than {limits.head_bytes:,} bytes"
            return Refusal("too-large", detail, status=HEAD_TOO_LARGE)

        def _unsupported_upgrade_warning(self) -> None:
            """Say nothing: the request is answered as if it had not asked for another protocol, which HTTP allows."""

        def _watch(self, watched: bool) -> None:
            if watched and self._late is None:
                self._late = self.loop.call_later(limits.headers_s, self.transport.close)
            elif not watched and self._late is not None:
                self._late.cancel()
                self._late = None

    return Impatient


def _last_answer(refusal: Refusal) -> bytes:
    """Return an answer after which the connection is closed, as bytes: there is no request that an app could answer."""
    body = orjson.dumps(refusal.body())
    headers = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (JSON.encode(), len(body))
    return STATUS_LINE[refusal.status] + headers + body
