"""A stand-in for InfluxDB's write API that fails on command. It is not InfluxDB: it checks nothing."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PARSE_ERROR = b'{"code":"invalid","message":"unable to parse \'m text=\\"secret\\"\': bad timestamp"}'


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets. hangs: no answer until the stub is closed."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What one request was. lines: the points in line protocol."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    lines: list[str]


class InfluxStub:
    """Gives the answers of `answers` in turn, then 204 to everything but a bad line.

    requests: all of them. stored: the lines that got a 204. is_bad: a batch with such a line gets a 400, as a whole.
    """

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.stored: list[str] = []
        self.is_bad: Callable[[str], bool] = lambda line: False
        self.closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="influx-stub")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if self.answers:
            return self.answers.popleft()
        if any(map(self.is_bad, request.lines)):
            return Answer(400, body=PARSE_ERROR)
        self.stored += request.lines
        return Answer()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stub: InfluxStub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer leave in two writes; otherwise the second one waits 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = self.server.stub.answer(Request(parts.path, query, dict(self.headers), body.split("\n")))
        if answer.hangs:
            self.server.stub.closing.wait()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
