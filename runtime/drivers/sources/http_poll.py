"""Source `http-poll`: what a server answers, asked for again and again."""

from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field, SecretStr

from runtime.drivers import records
from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Bytes, Item, Seconds, Source, SourceParameters, Wait

try:
    import httpx

    from runtime.drivers import http_peer
except ModuleNotFoundError as error:
    raise missing_extra("http", str(error.name)) from error

NOT_MODIFIED = 304


class HttpPollParameters(SourceParameters):
    """Parameters of `http-poll`."""

    url: SecretStr = Field(description="What is asked for; write url_env: VARIABLE if it holds a secret.")
    interval: Seconds = Field(gt=0, description="Between two requests, counted from the start.")
    token: SecretStr = Field(SecretStr(""), description="Bearer token; write token_env: VARIABLE.")
    headers: dict[str, str] = Field(default_factory=dict, description="Further headers.")
    request_timeout: Seconds = Field(10.0, gt=0, description="Until the server has answered.")
    max_body: Bytes = Field(16 * 1024 * 1024, ge=1, description="Larger answers count as failed.")
    changes: bool = Field(False, description="Leave out an answer that is the same as the one before.")
    format: records.Format = Field(records.Format.JSON, description="What an answer is: json, text or bytes.")


class HttpPollSource(Source):
    """Sends a `GET` at once and then at every interval; each answer is an input. Missed intervals are left out.

    A server that is away or busy is waited for; another error fails the driver. A server that gives an `ETag` is asked
    for changes only; 204 and 304 are no input. Needs krt-runtime[http].
    """

    parameters = HttpPollParameters
    params: HttpPollParameters
    _client: httpx.AsyncClient | None = None
    _etag = ""
    _last: bytes | None = None

    async def open(self) -> None:
        headers = {**self.params.headers, **http_peer.bearer(self.params.token)}
        self._client = httpx.AsyncClient(headers=headers, timeout=self.params.request_timeout, follow_redirects=False)

    async def read(self) -> AsyncIterator[Any]:
        clock, interval_s = self.site.clock, self.params.interval
        due_s = clock.monotonic()
        while True:
            now_s = clock.monotonic()
            if now_s < due_s:
                yield Wait(due_s - now_s)
                continue
            due_s += interval_s * (1 + (now_s - due_s) // interval_s)
            if (item := await self._poll()) is not None:
                yield item

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _poll(self) -> Item | None:
        """Ask once; None where there is nothing new. Raises NotConnected, DriverError."""
        assert self._client is not None
        asking = {"If-None-Match": self._etag} if self._etag else {}
        body = bytearray()
        try:
            async with self._client.stream("GET", self.params.url.get_secret_value(), headers=asking) as answer:
                if answer.status_code == NOT_MODIFIED:
                    return None
                http_peer.check_status(self.params.url, answer)
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > self.params.max_body:
                        return Item(None, fault=f"an answer is larger than {self.params.max_body:,} bytes")
        except httpx.TransportError as error:
            raise http_peer.no_answer(self.params.url, error) from error
        self._etag = answer.headers.get("ETag", "")
        return self._item(bytes(body)) if body else None

    def _item(self, body: bytes) -> Item | None:
        if self.params.changes:
            if body == self._last:
                return None
            self._last = body
        try:
            return Item(records.decode(body, self.params.format))
        except ValueError as error:
            return Item(None, fault=f"an answer {error}")
