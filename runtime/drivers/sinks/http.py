"""Sink `http`: each output as the body of a request."""

from typing import Any, Literal

from pydantic import Field, SecretStr

from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Item, Seconds, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes

try:
    import httpx

    from runtime.drivers import http_peer
except ModuleNotFoundError as error:
    raise missing_extra("http", "httpx") from error

# The same for every attempt and after a restart, so that the server can tell a repeat.
KEY_HEADER = "Idempotency-Key"


class HttpParameters(SinkParameters):
    """Parameters of `http`."""

    url: SecretStr = Field(description="Where to; write url_env: VARIABLE if it holds a secret.")
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="Of the requests.")
    token: SecretStr = Field(SecretStr(""), description="Bearer token; write token_env: VARIABLE.")
    headers: dict[str, str] = Field(default_factory=dict, description="Further headers.")
    timeout: Seconds = Field(10.0, gt=0, description="Of one request.")
    with_item: bool = Field(False, description="Send {request_id, source, state_id, metadata, …, output}.")


class HttpSink(Sink):
    """Sends each output as JSON (bytes as they are), with its id in the header `Idempotency-Key`.

    A server that is away or busy (408, 425, 429, 502, 503, 504; `Retry-After` is followed) is waited for; other errors
    are tried a few times. Needs krt-runtime[http].
    """

    parameters = HttpParameters
    params: HttpParameters
    _client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        headers = {**self.params.headers, **http_peer.bearer(self.params.token)}
        self._client = httpx.AsyncClient(headers=headers, timeout=self.params.timeout, follow_redirects=False)

    async def write(self, outputs: Any, item: Item) -> None:
        assert self._client is not None
        value = record_of(outputs, item) if self.params.with_item else outputs
        kind, content = ("octet-stream", value) if isinstance(value, bytes) else ("json", json_bytes(value))
        headers = {"Content-Type": f"application/{kind}", KEY_HEADER: f"{item.request_id}-{item.number}"}
        try:
            answer = await self._client.request(
                self.params.method,
                self.params.url.get_secret_value(),
                content=content,
                headers=headers,
            )
        except httpx.TransportError as error:
            raise http_peer.no_answer(self.params.url, error) from error
        http_peer.check_status(self.params.url, answer)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
