"""Sink `http`: each output as the body of a request."""

from typing import Any, Literal

from pydantic import Field, SecretStr

from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Item, NotConnected, Seconds, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes
from runtime.errors import DriverError
from runtime.stores.influx import retry_after_s

try:
    import httpx
except ModuleNotFoundError as error:
    raise missing_extra("http", "httpx") from error

# Statuses of a server that is busy, starting, or behind a proxy that does not reach it.
PASSING = frozenset({408, 425, 429, 502, 503, 504})
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
        token = self.params.token.get_secret_value()
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            headers={**self.params.headers, **authorization}, timeout=self.params.timeout, follow_redirects=False
        )

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
            raise NotConnected(f"{self._place} gives no answer ({type(error).__name__})") from error
        self._check(answer)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @property
    def _place(self) -> str:
        """The server, without what may be secret."""
        url = httpx.URL(self.params.url.get_secret_value())
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in PASSING:
            asked_s = retry_after_s(answer.headers.get("Retry-After"))
            raise NotConnected(f"{self._place} answers {answer.status_code}", retry_after_s=asked_s)
        if not answer.is_success:
            raise DriverError(f"{self._place} answers {answer.status_code}")
