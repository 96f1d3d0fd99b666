"""Who may ask what: bearer tokens with scopes, and pages of other origins. In front of every route."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.drivers.http.answers import Refusal
from runtime.errors import ConfigError


class TokenScope(StrEnum):
    """What a token allows: to look, to send requests, to change the driver."""

    READ = "read"
    RUN = "run"
    MANAGE = "manage"


OPEN_PATH = "/health"
READING_METHODS = ("GET", "HEAD")
# Seconds for which a browser may remember that a page of another origin is let in.
PREFLIGHT_MAX_AGE_S = 600
CORS_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Krt-State-Id, Krt-Timeout, traceparent",
    "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
}
CORS_EXPOSED = b"Krt-Request-Id, Krt-Type, Location, Retry-After"

_SCOPED = re.compile(rf"((?:{'|'.join(TokenScope)})(?:,(?:{'|'.join(TokenScope)}))*):(.+)")


class Tokens:
    """Tokens by the hash of their text, with what each allows."""

    def __init__(self, scopes: Mapping[str, frozenset[TokenScope]]) -> None:
        # Hashes have one length, so that comparing them takes the same time for every token that is tried.
        self._scopes = [(_hash(token.encode()), granted) for token, granted in scopes.items()]

    @classmethod
    def read(cls, text: str, variable: str) -> "Tokens":
        """Read tokens set apart by white space: `TOKEN` allows everything, `read,run:TOKEN` what it names.

        Raises ConfigError naming the variable when there is none.
        """
        found: dict[str, frozenset[TokenScope]] = {}
        for entry in text.split():
            match = _SCOPED.fullmatch(entry)
            named = [TokenScope(name) for name in match[1].split(",")] if match else TokenScope
            found[match[2] if match else entry] = frozenset(named)
        if not found:
            raise ConfigError(
                f"the variable {variable} holds no token; set it to one, or to several set apart by spaces"
            )
        return cls(found)

    def scopes_of(self, authorization: bytes) -> frozenset[TokenScope]:
        """Return what the header's token allows, nothing for an unknown one; takes as long for the one as the other."""
        presented = _hash(_presented(authorization))
        granted: frozenset[TokenScope] = frozenset()
        for token, scopes in self._scopes:
            if hmac.compare_digest(token, presented):
                granted = scopes
        return granted


class Gate:
    """ASGI in front of the app: answers what may not pass, and preflights."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None, origins: Callable[[], Sequence[str]]) -> None:
        """tokens: None lets everybody in. origins: of pages that may use the driver from a browser; `*` is any."""
        self._app = app
        self._tokens = tokens
        self._origins = origins

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
        await (refusal.response() if refusal else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, authorization: bytes) -> Refusal | None:
        if self._tokens is None or scope["path"] == OPEN_PATH:
            return None
        needed = TokenScope.READ if scope["method"] in READING_METHODS else TokenScope.RUN
        granted = self._tokens.scopes_of(authorization)
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
    if kind.lower() == b"bearer":
        return rest.strip()
    if kind.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(rest, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _with_origin(send: Send, origin: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
            exposed = (b"access-control-expose-headers", CORS_EXPOSED)
            message = {**message, "headers": [*message["headers"], allowed, exposed, (b"vary", b"Origin")]}
        await send(message)

    return sending
