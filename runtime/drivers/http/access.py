"""Who may ask what: tokens with scopes, and pages of other origins. In front of every route."""

import base64
import binascii
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.drivers.http.answers import Refusal
from runtime.drivers.tokens import Tokens, TokenScope, bearer_token

OPEN_PATH = "/health"
# Key of a request's scope: why it would be refused, where its route decides about that.
REFUSAL = "krt.refusal"
READING_METHODS = ("GET", "HEAD")
# Seconds for which a browser may remember that a page of another origin is let in.
PREFLIGHT_MAX_AGE_S = 600
CORS_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Krt-State-Id, Krt-Timeout, traceparent",
    "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
}
CORS_EXPOSED = b"Krt-Request-Id, Krt-Type, Location, Retry-After"


class Gate:
    """ASGI in front of the app: answers what may not pass, and preflights."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens | None,
        origins: Callable[[], Sequence[str]],
        own_rules: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:
        """tokens: None lets everybody in. origins: of pages that may use the driver from a browser; `*` is any.

        own_rules: says of a method and a path that the route itself decides who is let in, see `REFUSAL`.
        """
        self._app = app
        self._tokens = tokens
        self._origins = origins
        self._own_rules = own_rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not {origin, "*"}.isdisjoint(self._origins()):
            if scope["method"] == "OPTIONS":
                await Response(status_code=204, headers={"Access-Control-Allow-Origin": origin, **CORS_ALLOWED})(
                    scope, receive, send
                )
                return
            send = _with_origin(send, origin)
        refusal = self._refusal(scope, headers.get(b"authorization", b""))
        if refusal is not None and self._own_rules(scope["method"], scope["path"]):
            scope, refusal = {**scope, REFUSAL: refusal}, None
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, authorization: bytes) -> Refusal | None:
        if self._tokens is None or scope["path"] == OPEN_PATH:
            return None
        needed = TokenScope.READ if scope["method"] in READING_METHODS else TokenScope.RUN
        granted = self._tokens.scopes_of(_presented(authorization))
        if not granted:
            # A browser asks its user for a password, which is the token: so the pages can be seen, too.
            asking = {"WWW-Authenticate": 'Bearer realm="krt", Basic realm="krt: the token is the password"'}
            return Refusal("auth", "send a known token: Authorization: Bearer TOKEN", headers=asking)
        if needed not in granted:
            return Refusal("auth", f"this token does not allow to {needed}", status=403)
        return None


def _presented(authorization: bytes) -> bytes:
    """Return the token of a header: a bearer's, or the password of a browser."""
    kind, _, rest = authorization.strip().partition(b" ")
    if kind.lower() != b"basic":
        return bearer_token(authorization)
    try:
        return base64.b64decode(rest, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _with_origin(send: Send, origin: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
            exposed = (b"access-control-expose-headers", CORS_EXPOSED)
            message = {**message, "headers": [*message["headers"], allowed, exposed, (b"vary", b"Origin")]}
        await send(message)

    return sending
