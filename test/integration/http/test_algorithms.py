"""The HTTP view of algorithms: who is served, what each status means, and plain HTTP runners that register."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.bus.base import Bus
from runtime.drivers.fastapi_driver import FastAPIDriver
from runtime.drivers.http import algorithm_hosts
from test.support.drivers import echo_workflow
from test.support.http import Web, serving
from test.support.runners import running

ADAPTER = '''
import math, time

class RequestError(Exception):
    pass

class Response:
    status_code = 404

def run_add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b

def run_fetch(found: bool):
    error = RequestError("no image")
    if not found:
        error.response = Response()
    raise error

def run_fail():
    raise ZeroDivisionError("secret")

def run_nan():
    return {"score": [1.0, math.nan]}

def run_sleep(seconds: float):
    time.sleep(seconds)
'''


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with echo_workflow() as bus:
        yield bus


@pytest.fixture
async def web(bus: Bus, tmp_path: Path) -> AsyncIterator[Web]:
    """A driver beside a runner of `ADAPTER`."""
    async with running(bus, tmp_path, ADAPTER), serving(lambda: FastAPIDriver(algorithms=True), bus) as web:
        yield web


async def test_a_call_is_answered_with_the_result(web: Web) -> None:
    answer = await web.http.post("/run/add", json={"a": "1"})

    assert (answer.status_code, answer.json()) == (200, {"result": 3})
    assert answer.headers["Krt-Request-Id"]


async def test_what_is_served_is_listed_with_its_schemas(web: Web) -> None:
    listed = (await web.http.get("/algorithms")).json()
    schemas = (await web.http.get("/schemas")).json()
    one = (await web.http.get("/schemas/add")).json()

    assert list(listed) == list(schemas) == ["add", "fail", "fetch", "nan", "sleep"]
    told = listed["add"]
    assert told.pop("schema_hash") == one["schema_hash"]
    assert told == {"runner": "images", "version": "0.0.0", "instances": 1, "doc": "Add two numbers."}
    assert schemas["add"] == one["request"] and schemas["add"]["title"] == "AlgorithmRequestModel_add"
    assert one["response"] == {"type": "integer"}
    assert (await web.http.get("/schemas/other")).status_code == 404


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b"no json", ["the body is no JSON"]),
        (b"[1]", ["the body is no JSON object of arguments"]),
        (b'{"a": "x", "c": 1}', ["a: Input should be a valid integer", "c: Extra inputs are not permitted"]),
    ],
)
async def test_every_fault_of_a_payload_is_told(web: Web, body: bytes, errors: list[str]) -> None:
    answer = await web.http.post("/run/add", content=body, headers={"Content-Type": "application/json"})

    told = answer.json()
    assert (answer.status_code, told["outcome"], len(told["errors"])) == (400, "invalid", len(errors))
    assert all(error in told["detail"] for error in errors)
    assert all({"path", "message"} == each.keys() for each in told["errors"])


async def test_an_input_at_fault_is_told_by_the_algorithm(web: Web) -> None:
    own = await web.http.post("/run/fetch", json={"found": True})
    fetched = await web.http.post("/run/fetch", json={"found": False})

    assert (own.status_code, own.json()["detail"]) == (400, "no image")
    assert (fetched.status_code, fetched.json()["detail"]) == (400, "Error fetching request image, received 404")


async def test_an_unknown_name_tells_the_known_ones(web: Web) -> None:
    answer = await web.http.post("/run/other", json={})
    nameless = await web.http.post("/run/a-b", json={})

    assert (answer.status_code, answer.json()["outcome"]) == (404, "unknown")
    assert answer.json()["known"] == ["add", "fail", "fetch", "nan", "sleep"]
    assert nameless.status_code == 404


async def test_a_failure_shows_its_traceback_unless_told_otherwise(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    shown = await web.http.post("/run/fail", json={})
    web.runner.set_parameters({"expose_tracebacks": False})
    with caplog.at_level(logging.ERROR):
        hidden = await web.http.post("/run/fail", json={})

    assert (shown.status_code, shown.json()["outcome"]) == (500, "failed")
    assert 'raise ZeroDivisionError("secret")' in shown.json()["detail"]
    assert hidden.status_code == 500 and "secret" not in hidden.text
    assert hidden.headers["Krt-Request-Id"] in hidden.json()["detail"]
    records = [record for record in caplog.records if getattr(record, "action", "") == "algorithm-failed"]
    assert ["secret" in record.getMessage() for record in records] == [True, True]


async def test_a_result_that_is_no_json_is_told_with_its_place(web: Web) -> None:
    answer = await web.http.post("/run/nan", json={})

    assert (answer.status_code, answer.json()["outcome"]) == (500, "bad_implementation")
    assert "score" in answer.json()["detail"]


async def test_a_call_that_is_too_late_tells_its_limit(web: Web) -> None:
    answer = await web.http.post("/run/sleep", json={"seconds": 0.5}, headers={"Krt-Timeout": "100ms"})
    wrong = await web.http.post("/run/sleep", json={"seconds": 0.5}, headers={"Krt-Timeout": "soon"})

    assert (answer.status_code, answer.json()["outcome"]) == (504, "timeout")
    assert "0.1 s" in answer.json()["detail"]
    assert wrong.status_code == 400


async def test_a_body_beyond_the_limit_and_another_type_are_refused(web: Web) -> None:
    web.runner.set_parameters({"max_body": 10})

    large = await web.http.post("/run/add", json={"a": 1_000_000})
    form = await web.http.post("/run/add", content=b"{}", headers={"Content-Type": "text/plain"})

    assert (large.status_code, "10 bytes" in large.json()["detail"]) == (413, True)
    assert form.status_code == 415


async def test_of_calls_beyond_the_waiting_places_each_is_told_to_come_again(web: Web) -> None:
    calls = [web.http.post("/run/sleep", json={"seconds": 0.2}) for _ in range(4)]

    answers = await asyncio.gather(*calls)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429]
    [busy] = [answer for answer in answers if answer.status_code == 429]
    assert int(busy.headers["Retry-After"]) >= 1


async def test_an_algorithm_whose_runner_has_stopped_was_there_before(bus: Bus, tmp_path: Path) -> None:
    async with serving(lambda: FastAPIDriver(algorithms=True), bus) as web:
        async with running(bus, tmp_path, ADAPTER):
            assert (await web.http.post("/run/add", json={"a": 1})).status_code == 200

        answer = await web.http.post("/run/add", json={"a": 1})

    assert (answer.status_code, answer.json()["outcome"]) == (503, "unavailable")
    assert "runner images did at 20" in answer.json()["detail"]
    assert "Retry-After" in answer.headers


async def test_a_runner_that_starts_later_is_served_without_a_restart(web: Web, bus: Bus, tmp_path: Path) -> None:
    assert (await web.http.post("/run/upper", json={"text": "a"})).status_code == 404

    async with running(bus, tmp_path, "def run_upper(text: str) -> str: return text.upper()", "texts"):
        answer = await web.http.post("/run/upper", json={"text": "a"})
        document = (await web.http.get("/openapi.json")).json()

    assert answer.json() == {"result": "A"}
    assert document["paths"]["/run/upper"]["post"]["operationId"] == "run_upper"


async def test_a_driver_without_algorithms_has_no_such_routes(bus: Bus, tmp_path: Path) -> None:
    async with running(bus, tmp_path, ADAPTER), serving(FastAPIDriver, bus) as web:
        answers = [await web.http.post("/run/add", json={"a": 1}), await web.http.get("/schemas")]
        document = (await web.http.get("/openapi.json")).json()

    assert [answer.status_code for answer in answers] == [404, 404]
    assert not any("/run" in path for path in document["paths"])


async def test_the_document_has_one_operation_for_each_algorithm(web: Web) -> None:
    document = (await web.http.get("/openapi.json")).json()

    operation = document["paths"]["/run/add"]["post"]
    assert operation["summary"] == "Add two numbers."
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Algorithm.add"
    }
    assert document["components"]["schemas"]["Algorithm.add"]["additionalProperties"] is False
    assert {path for path in document["paths"] if path.startswith("/run/")} == {
        f"/run/{name}" for name in ("add", "fail", "fetch", "nan", "sleep")
    }


# --- plain HTTP runners ---


class PlainRunner(BaseHTTPRequestHandler):
    """What others have written: a result by itself, and `detail` of what went wrong."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = (
            (200, b'{"label": "cat", "got": %b}' % body) if b"bad" not in body else (400, b'{"detail": "x"}')
        )
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_error(405)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def plain_runner() -> Iterator[str]:
    """Run one, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), PlainRunner)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_hosts() -> FastAPIDriver:
    return FastAPIDriver(algorithm_hosts=["http://127.0.0.1:*"])


async def register(web: Web, host: str, algorithm: str = "classify", path: str = "/algorithms") -> httpx.Response:
    return await web.http.post(path, json={"algorithm": algorithm, "host": host})


@pytest.mark.parametrize("path", ["/algorithms", "/"])
async def test_a_plain_http_runner_is_called_once_it_has_registered(bus: Bus, path: str) -> None:
    with plain_runner() as host:
        async with serving(with_hosts, bus) as web:
            registered = [await register(web, host, path=path) for _ in range(2)]
            answer = await web.http.post("/run/classify", json={"image_url": "u"})
            refused = await web.http.post("/run/classify", json={"image_url": "bad"})
            listed = (await web.http.get("/algorithms")).json()
            mapping = (await web.http.get("/")).json()
            page = await web.http.get("/", headers={"Accept": "text/html"})

    assert [answer.status_code for answer in registered] == [201, 201]
    assert answer.json() == {"result": {"label": "cat", "got": {"image_url": "u"}}}
    assert (refused.status_code, refused.json()["detail"]) == (400, "x")
    assert listed["classify"]["instances"] == 1
    assert mapping == {"classify": f"http://127.0.0.1:{web.port}"}
    assert page.headers["location"] == "docs"


async def test_a_plain_http_runner_may_register_before_it_listens_and_is_forgotten_when_it_never_does(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algorithm_hosts, "PROBE_S", 0.05)
    with plain_runner() as host:
        pass
    async with serving(with_hosts, bus) as web:
        registered = await register(web, host)
        called = await web.http.post("/run/classify", json={})
        async with asyncio.timeout(10):
            while (await web.http.get("/algorithms")).json():  # noqa: ASYNC110 - nobody tells a client of HTTP
                await asyncio.sleep(0.02)
        gone = await web.http.post("/run/classify", json={})

    assert (registered.status_code, called.status_code, gone.status_code) == (201, 503, 503)
    assert "gives no answer: ConnectError" in called.json()["detail"]
    assert "nobody serves" in gone.json()["detail"]


async def test_a_name_with_another_signature_is_refused(bus: Bus, tmp_path: Path) -> None:
    code = "def run_classify(url: str): return 1"
    async with running(bus, tmp_path, code), serving(with_hosts, bus) as web:
        answer = await register(web, "http://127.0.0.1:5000")
        called = await web.http.post("/run/classify", json={"url": "u"})

    assert answer.status_code == 409
    assert "with another signature" in answer.json()["detail"] and "runner images" in answer.json()["detail"]
    assert called.json() == {"result": 1}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("http://10.0.0.1:80", 403),
        ("http://127.0.0.1:80@10.0.0.1:80", 400),
        ("http://127.0.0.1:80/path", 400),
        ("file:///etc/passwd", 400),
        ("127.0.0.1:5000", 400),
        ("", 400),
    ],
)
async def test_only_addresses_that_a_pattern_names_are_registered(bus: Bus, host: str, status: int) -> None:
    async with serving(with_hosts, bus) as web:
        answer = await register(web, host)

        assert (answer.status_code, (await web.http.get("/algorithms")).json()) == (status, {})


async def test_a_registration_tells_all_that_is_wrong_with_it(bus: Bus) -> None:
    async with serving(with_hosts, bus) as web:
        answer = await web.http.post("/algorithms", json={"algorithm": 1, "port": 2})
        name = await register(web, "http://127.0.0.1:5000", "no name")

    assert answer.json()["detail"] == "algorithm is no text; host is no text; port is unknown"
    assert answer.status_code == name.status_code == 400


async def test_nobody_registers_unless_addresses_are_allowed(web: Web) -> None:
    answer = await register(web, "http://127.0.0.1:5000")

    assert answer.status_code == 403 and "algorithm_hosts" in answer.json()["detail"]
