"""The HTTP sink: what it sends, which answers it waits out, and what it never shows."""

import json
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runtime.drivers.flow import Item, NotConnected
from runtime.drivers.sinks.http import HttpSink
from runtime.errors import DriverError

ITEM = Item({"in": 1}, request_id="r-1", source="gate", state_id="s")


class Server:
    """Answers with the statuses of `answers` in turn, then 204; `requests` holds headers and bodies."""

    def __init__(self) -> None:
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.requests: list[tuple[dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((dict(self.headers), body))
                status, headers = outer.answers.popleft() if outer.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hooks/secret-path"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


async def write(sink: HttpSink, output: Any) -> None:
    await sink.open()
    try:
        await sink.write(output, ITEM)
    finally:
        await sink.close()


async def test_an_output_is_sent_with_its_key_and_token(server: Server) -> None:
    sink = HttpSink(url=server.url, method="PUT", token="secret", headers={"X-Site": "gate"})

    await write(sink, {"n": 1})
    await write(sink, b"\x00raw")

    (headers, body), (raw_headers, raw) = server.requests
    assert json.loads(body) == {"n": 1}
    wanted = {"Content-Type": "application/json", "Idempotency-Key": "r-1-0", "Authorization": "Bearer secret"}
    assert {name: headers[name] for name in wanted} == wanted
    assert (headers["X-Site"], raw, raw_headers["Content-Type"]) == ("gate", b"\x00raw", "application/octet-stream")


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_a_busy_server_is_waited_for_as_long_as_it_asks(server: Server, status: int) -> None:
    server.answers.append((status, {"Retry-After": "7"}))

    with pytest.raises(NotConnected) as caught:
        await write(HttpSink(url=server.url, method="PUT"), 1)

    assert caught.value.retry_after_s == 7.0
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 400, 403, 500])
async def test_another_answer_is_a_failed_attempt(server: Server, status: int) -> None:
    server.answers.append((status, {}))

    with pytest.raises(DriverError, match=f"answers {status}$") as caught:
        await write(HttpSink(url=server.url, method="PUT"), 1)

    assert not isinstance(caught.value, NotConnected)


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    with pytest.raises(NotConnected, match=r"^http://127\.0\.0\.1:9 gives no answer \(ConnectError\)$"):
        await write(HttpSink(url="http://user:secret@127.0.0.1:9/secret"), 1)
