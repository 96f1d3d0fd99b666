"""Source `webhook`: the bodies of HTTP requests."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, SecretStr

from runtime.drivers import records
from runtime.drivers.components import missing_extra
from runtime.drivers.flow import DROPPED, Bytes, Item, Source, SourceParameters
from runtime.message import ReplyOutcome

try:
    from runtime.drivers.http.protocol import HttpLimits
    from runtime.drivers.http.server import HttpServer
except ModuleNotFoundError as error:
    raise missing_extra("http", str(error.name)) from error

# What ASGI calls a scope or an event.
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

# Status by the outcome of an item; any other is 500.
STATUS = {
    ReplyOutcome.OK: 200,
    ReplyOutcome.INVALID: 400,
    ReplyOutcome.TOO_LARGE: 413,
    ReplyOutcome.TIMEOUT: 504,
    DROPPED: 429,
}
# Seconds that answers may take to leave when the source closes.
GRACE_S = 1.0


class WebhookParameters(SourceParameters):
    """Parameters of `webhook`."""

    path: str = Field("/", pattern="^/", description="Path of the requests.")
    token: SecretStr = Field(SecretStr(""), description="Bearer token that is asked for; write token_env: VARIABLE.")
    max_body: Bytes = Field(16 * 1024 * 1024, ge=1, description="Larger bodies are refused with 413.")
    format: records.Format = Field(records.Format.JSON, description="What a body is: json, text or bytes.")


@dataclass(frozen=True, slots=True)
class _Request:
    """A body that was read, and where to tell how its item ended."""

    body: bytes
    headers: dict[str, str]
    ended: "asyncio.Future[str]"


class WebhookSource(Source):
    """Listens for `POST` and sends each body; the answer comes after the last sink.

    200 done, 400 not readable, 401 wrong token, 413 too large, 429 dropped, 500 failed, 503 stopping, 504 too late.
    Headers `Krt-State-Id` and `Krt-Meta-NAME` set the state id and metadata. The port has the source's ref:
    `ports: {REF: 8080}` of the driver. Needs krt-runtime[http].
    """

    parameters = WebhookParameters
    params: WebhookParameters
    needs_port = True
    _server: HttpServer | None = None
    _serving: "asyncio.Task[None] | None" = None
    _requests: "asyncio.Queue[_Request]"
    _ended: "asyncio.Event"

    async def open(self) -> None:
        # One: further requests wait in their connections.
        self._requests = asyncio.Queue(maxsize=1)
        self._ended = asyncio.Event()
        ref, resources = self.site.ref, self.site.resources

        # uvicorn takes a method for an application of ASGI 2.
        async def answer(scope: Event, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        self._server = HttpServer(
            answer,
            HttpLimits(),
            tls=None,
            grace_s=GRACE_S,
            on_ready=lambda: resources.announce(ref, protocol="http"),
        )
        self._serving = asyncio.create_task(self._server.serve_on(resources.socket(ref)), name=f"webhook {ref}")

    async def read(self) -> AsyncIterator[Any]:
        while True:
            yield self._item(await self._requests.get())

    async def close(self) -> None:
        if self._server is None or self._serving is None:
            return
        self.site.resources.withdraw(self.site.ref)
        self._ended.set()
        self._server.stop()
        await self._serving
        self._server = self._serving = None

    def _item(self, request: _Request) -> Item:
        prefix = "krt-meta-"
        metadata = {
            name.removeprefix(prefix): value for name, value in request.headers.items() if name.startswith(prefix)
        }
        state_id = request.headers.get("krt-state-id", "")

        def done(outcome: str) -> None:
            if not request.ended.done():
                request.ended.set_result(outcome)

        try:
            inputs, fault = records.decode(request.body, self.params.format), ""
        except ValueError as error:
            inputs, fault = None, f"a body {error}"
        return Item(inputs, state_id=state_id, metadata=metadata, done=done, fault=fault)

    # --- requests ---

    async def _answer(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request; what ASGI calls an application."""
        status, outcome = await self._status(scope, receive)
        body = records.json_bytes({"outcome": str(outcome)})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _status(self, scope: Event, receive: Receive) -> tuple[int, str]:
        if scope["type"] != "http" or scope["path"] != self.params.path:
            return 404, "unknown"
        if scope["method"] != "POST":
            return 405, "unknown"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_let_in(headers):
            return 401, "auth"
        body = await self._body(receive)
        if body is None:
            return STATUS[ReplyOutcome.TOO_LARGE], ReplyOutcome.TOO_LARGE
        outcome = await self._carry(_Request(body, headers, asyncio.get_running_loop().create_future()))
        return STATUS.get(outcome, 503 if outcome == ReplyOutcome.UNAVAILABLE else 500), outcome

    def _is_let_in(self, headers: dict[str, str]) -> bool:
        wanted = self.params.token.get_secret_value()
        given = headers.get("authorization", "").removeprefix("Bearer ")
        return not wanted or hmac.compare_digest(given.encode(), wanted.encode())

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the body, None for one that is too large."""
        parts = bytearray()
        while True:
            event = await receive()
            parts += event.get("body", b"")
            if len(parts) > self.params.max_body:
                return None
            if not event.get("more_body", False):
                return bytes(parts)

    async def _carry(self, request: _Request) -> str:
        """Hand a request to the driver and return its outcome; `unavailable` once the source closes."""
        closing: asyncio.Future[Any] = asyncio.ensure_future(self._ended.wait())
        handing: asyncio.Future[Any] = asyncio.ensure_future(self._requests.put(request))
        ended: asyncio.Future[Any] = request.ended
        try:
            await asyncio.wait([handing, closing], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([ended, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            handing.cancel()
        return request.ended.result() if request.ended.done() else ReplyOutcome.UNAVAILABLE
