"""Who is let in: bearer tokens in the metadata, in front of every method, and certificates."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from runtime.drivers.grpc.health import HEALTH_SERVICE
from runtime.drivers.tls import server_tls
from runtime.drivers.tokens import Tokens, TokenScope, bearer_token

AUTHORIZATION = "authorization"
# Services that show what there is; all others are calls to the workflow.
READING_SERVICES = ("grpc.reflection.v1alpha.ServerReflection",)

# In quotes: the class takes no types when it runs. None where gRPC knows no such method.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class TokenCheck(grpc.aio.ServerInterceptor):
    """Lets calls with a known token pass. Health checks need none: whoever probes a process has no secrets."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        service = handler_call_details.method.strip("/").partition("/")[0]
        if service == HEALTH_SERVICE:
            return await continuation(handler_call_details)
        given = dict(handler_call_details.invocation_metadata or ()).get(AUTHORIZATION, b"")
        granted = self._tokens.scopes_of(bearer_token(given if isinstance(given, bytes) else given.encode()))
        needed = TokenScope.READ if service in READING_SERVICES else TokenScope.RUN
        if not granted:
            return _refusal(
                grpc.StatusCode.UNAUTHENTICATED, "send a known token as metadata: authorization: Bearer TOKEN"
            )
        if needed not in granted:
            return _refusal(grpc.StatusCode.PERMISSION_DENIED, f"this token does not allow to {needed}")
        return await continuation(handler_call_details)


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """Return the credentials of a folder, see `tls.server_tls`; with `ca.crt` clients have to show a certificate.

    Raises ConfigError naming the file: gRPC itself says no more than that it cannot listen.
    """
    server_tls(folder)
    key, certificate = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    authority = folder / "ca.crt"
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=authority.read_bytes() if authority.exists() else None,
        require_client_auth=authority.exists(),
    )


def _refusal(code: grpc.StatusCode, detail: str) -> Handler:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, detail)

    return grpc.unary_unary_rpc_method_handler(refuse)
