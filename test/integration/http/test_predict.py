"""Requests to `/predict` of an HTTP driver, on real connections: outputs, and every way in which there are none."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pydantic
import pytest
from fastapi import FastAPI, Request, Response

from runtime import wire
from runtime.bus.memory import MemoryBroker
from runtime.bus.presence import ServiceRecord
from runtime.clock import SystemClock
from runtime.drivers.base import DriverState, WorkflowSchema
from runtime.drivers.fastapi_driver import FastAPIDriver, FastAPIParameters
from runtime.drivers.http.protocol import HttpLimits
from runtime.drivers.runner import DriverTerms
from runtime.spec import names
from test.support.answering_node import NODE, AnsweringNode, stream_config
from test.support.drivers import STREAM, WORKFLOW, echo_workflow, hosted
from test.support.http import JSON_HEADERS, Web, predict_bytes, serving
from test.support.ports import free_port
from test.support.waiting import until


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    city: str
    count: int


ORDERS = WorkflowSchema(inputs=pydantic.TypeAdapter(Order).json_schema(), outputs={"type": "object"})


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


async def test_the_answer_is_the_output_with_the_id_of_its_request(web: Web) -> None:
    answer = await web.http.post("/predict", json={"name": "Ada", "ages": [36, 1.5, None]})

    assert (answer.status_code, answer.json()) == (200, {"name": "Ada", "ages": [36, 1.5, None]})
    assert len(answer.headers["Krt-Request-Id"]) == 32


async def test_bytes_go_in_and_come_out_as_they_are(web: Web) -> None:
    answer = await web.http.post("/predict", content=b"\x00\xff", headers={"Content-Type": "application/octet-stream"})

    assert (answer.content, answer.headers["Content-Type"]) == (b"\x00\xff", "application/octet-stream")


async def test_state_id_deadline_and_trace_travel_with_the_request() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with echo_workflow() as bus, serving(bus=bus) as web:
        began_ms = time.time() * 1000
        await web.http.post("/predict", json={"inputs": 1, "state_id": "cam-1", "timeout": "5s"})
        headers = {"Krt-State-Id": "cam-2", "Krt-Timeout": "500ms", "traceparent": trace}
        await web.http.post("/predict", json=2, headers=headers)
        first, second = [wire.decode((await bus.get_message(STREAM, number)).data) for number in (1, 2)]

    assert (first.state_id, second.state_id) == ("cam-1", "cam-2")
    assert 5_000 <= first.deadline_ms - began_ms < 7_000
    assert 500 <= second.deadline_ms - began_ms < 2_500
    assert (first.traceparent, second.traceparent) == ("", trace)


@pytest.mark.parametrize(
    ("inputs", "status", "outcome"),
    [
        ({"error": "no such city"}, 500, "failed"),
        ({"inputs": {"silent": True}, "timeout": 0.05}, 504, "timeout"),
    ],
)
async def test_a_failed_request_has_the_status_of_its_outcome(web: Web, inputs: Any, status: int, outcome: str) -> None:
    answer = await web.http.post("/predict", json=inputs)

    assert (answer.status_code, answer.json()["outcome"]) == (status, outcome)
    assert answer.json()["request_id"] == answer.headers["Krt-Request-Id"]


async def test_one_failing_request_among_many_fails_alone(web: Web) -> None:
    bodies: list[Any] = [{"error": "bad"} if number % 10 == 0 else {"number": number} for number in range(100)]

    answers = await asyncio.gather(*(web.http.post("/predict", json=body) for body in bodies))

    assert [answer.status_code for answer in answers] == [500 if "error" in body else 200 for body in bodies]
    assert [answer.json() for answer in answers if answer.is_success] == [b for b in bodies if "error" not in b]


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"{", 400, "no JSON"),
        (b'{"city": NaN, "count": 1}', 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b'{"inputs": {"city": "x", "count": 1}, "state": 1}', 400, "state is unknown beside inputs"),
        (b'{"inputs": {"city": "x", "count": 1}, "timeout": -1}', 400, "timeout"),
        (b'{"inputs": {"city": "x", "count": 1}, "timeout": "soon"}', 400, "timeout"),
        (b'{"inputs": {"city": "x", "count": 1}, "state_id": 7}', 400, "state_id is no text"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_and_nothing_is_sent(
    content: bytes, status: int, detail: str
) -> None:
    async with echo_workflow() as bus, serving(bus=bus, view=replace(WORKFLOW, find_schema=lambda: ORDERS)) as web:
        answer = await web.http.post("/predict", content=content, headers=JSON_HEADERS)
        stored = (await bus.stream_state(STREAM)).messages

    assert (answer.status_code, answer.json()["outcome"], stored) == (status, "invalid", 0)
    assert detail in answer.json()["detail"]


async def test_every_wrong_field_is_told_and_nothing_is_sent() -> None:
    async with echo_workflow() as bus, serving(bus=bus, view=replace(WORKFLOW, find_schema=lambda: ORDERS)) as web:
        wrong = await web.http.post("/predict", json={"city": 5, "county": "x"})
        wrapped = await web.http.post("/predict", json={"inputs": {"city": "x", "count": "7"}})
        stored = (await bus.stream_state(STREAM)).messages
        right = await web.http.post("/predict", json={"city": "x", "count": 7})

    assert [wrong.status_code, wrapped.status_code, right.status_code, stored] == [400, 400, 200, 0]
    assert {fault["field"] for fault in wrong.json()["faults"]} == {"city", "count", "county"}
    assert [fault["field"] for fault in wrapped.json()["faults"]] == ["inputs.count"]


async def test_a_form_of_another_site_is_refused(web: Web) -> None:
    answer = await web.http.post("/predict", data={"city": "x"})

    assert answer.status_code == 415


async def test_a_body_of_100_mb_is_refused_without_being_kept(web: Web) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1024 * 1024
            yield bytes(1024 * 1024)

    declared = await web.http.post("/predict", content=bytes(100 * 1024 * 1024), headers=JSON_HEADERS)
    chunked = await web.http.post("/predict", content=body(), headers=JSON_HEADERS)

    assert (declared.status_code, chunked.status_code) == (413, 413)
    assert "16,777,216 bytes" in chunked.json()["detail"]


async def test_a_client_that_dribbles_its_headers_is_let_go() -> None:
    limits = HttpLimits(headers_s=0.1)
    async with serving(lambda: FastAPIDriver(limits=limits)) as web:
        reader, writer = await web.send_raw(b"POST /predict HTTP/1.1\r\nHost:")

        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_dribbles_its_body_is_let_go() -> None:
    limits = HttpLimits(body_s=0.1)
    async with serving(lambda: FastAPIDriver(limits=limits)) as web:
        reader, writer = await web.send_raw(predict_bytes({"a": 1})[:-2])

        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_client_that_goes_away_cancels_its_request() -> None:
    async with serving() as web:
        _, writer = await web.send_raw(predict_bytes({"inputs": {"silent": True}, "timeout": 60}))
        await until(lambda: web.driver.in_flight == 1)

        writer.close()

        await until(lambda: web.driver.in_flight == 0)


async def test_beyond_max_in_flight_requests_are_refused_with_a_time() -> None:
    async with serving(lambda: FastAPIDriver(parameters=FastAPIParameters(max_in_flight=2))) as web:
        waiting = [
            asyncio.create_task(web.http.post("/predict", json={"inputs": {"silent": True}, "timeout": 1}))
            for _ in range(2)
        ]
        await until(lambda: web.driver.in_flight == 2)

        refused = await web.http.post("/predict", json=1)
        waited = await asyncio.gather(*waiting)
        after = await web.http.post("/predict", json=1)

    assert (refused.status_code, refused.json()["outcome"], refused.headers["Retry-After"]) == (429, "busy", "2")
    assert [answer.status_code for answer in waited] == [504, 504]
    assert after.status_code == 200


async def test_several_outputs_come_as_events(web: Web) -> None:
    answer = await web.http.post("/predict", json={"early": 5}, headers={"Accept": "text/event-stream"})

    events = 'event: output\ndata: 5\n\nevent: output\ndata: {"early":5}\n\nevent: end\ndata: {"outcome":"ok"}\n\n'
    assert (answer.status_code, answer.text) == (200, events)
    assert len(answer.headers["Krt-Request-Id"]) == 32


async def test_a_request_for_events_that_fails_at_once_has_its_status(web: Web) -> None:
    failed = await web.http.post("/predict", json={"error": "bad"}, headers={"Accept": "text/event-stream"})
    nothing = await web.http.post("/predict", json={"nothing": True}, headers={"Accept": "text/event-stream"})

    assert failed.status_code == 500
    assert nothing.text == 'event: end\ndata: {"outcome":"ok"}\n\n'


async def test_events_that_break_off_end_with_the_error(web: Web) -> None:
    inputs = {"inputs": {"begun": True}, "timeout": 0.1}

    answer = await web.http.post("/predict", json=inputs, headers={"Accept": "text/event-stream"})

    output, error, rest = answer.text.split("\n\n")
    assert (answer.status_code, output, rest) == (200, 'event: output\ndata: {"begun":true}', "")
    assert error.startswith('event: error\ndata: {"outcome":"timeout"')


async def test_a_reader_of_events_that_goes_away_frees_its_place() -> None:
    async with serving() as web:
        # Its answer never comes; the client leaves before.
        raw = predict_bytes({"inputs": {"silent": True}, "timeout": 60}, "Accept: text/event-stream")
        _, writer = await web.send_raw(raw)
        await until(lambda: web.driver.in_flight == 1)

        writer.close()

        await until(lambda: web.driver.in_flight == 0)
        assert (await web.http.post("/predict", json=1)).status_code == 200


async def test_parameters_change_while_it_serves(web: Web) -> None:
    web.runner.set_parameters({"max_body": "1Ki", "cors": ["https://page.example"]})

    large = await web.http.post("/predict", json="x" * 2_000)
    allowed = await web.http.get("/health", headers={"Origin": "https://page.example"})
    foreign = await web.http.get("/health", headers={"Origin": "https://other.example"})
    preflight = await web.http.options("/predict", headers={"Origin": "https://page.example"})

    assert large.status_code == 413
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "Access-Control-Allow-Origin" not in foreign.headers
    assert (preflight.status_code, "Krt-State-Id" in preflight.headers["Access-Control-Allow-Headers"]) == (204, True)


async def test_unknown_paths_and_methods_are_answered_with_json(web: Web) -> None:
    unknown, wrong = await web.http.get("/nothing"), await web.http.put("/tasks/x")

    assert (unknown.status_code, unknown.json()["outcome"]) == (404, "unknown")
    assert (wrong.status_code, wrong.json()["outcome"]) == (405, "invalid")
    assert set(wrong.headers["Allow"].split(", ")) == {"GET", "HEAD", "DELETE"}


async def test_stop_lets_running_requests_finish() -> None:
    async with echo_workflow() as bus:
        async with serving(bus=bus) as web:
            running = asyncio.create_task(web.http.post("/predict", json={"inputs": {"silent": True}, "timeout": 0.5}))
            await until(lambda: web.driver.in_flight == 1)

            await web.runner.stop()

            assert (await running).status_code == 504
            assert web.runner.state is DriverState.STOPPED
            with pytest.raises(httpx.ConnectError):
                await web.http.get("/health")


async def test_a_subclass_adds_routes_whose_faults_are_answered_alike() -> None:
    class WithCities(FastAPIDriver):
        def add_routes(self, app: FastAPI) -> None:
            @app.get("/cities")
            async def cities(count: int) -> list[str]:
                return ["Ghent"] * count

    async with serving(WithCities) as web:
        found = await web.http.get("/cities", params={"count": 2})
        wrong = await web.http.get("/cities", params={"count": "x"})
        document = (await web.http.get("/openapi.json")).json()

    assert found.json() == ["Ghent", "Ghent"]
    assert (wrong.status_code, wrong.json()["faults"][0]["field"]) == (400, "query.count")
    assert {"/cities", "/predict"} <= document["paths"].keys()


async def test_middleware_of_a_subclass_sees_every_request() -> None:
    class Stamped(FastAPIDriver):
        def add_routes(self, app: FastAPI) -> None:
            @app.middleware("http")
            async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
                response = await call_next(request)
                response.headers["Stamp"] = request.url.path
                return response

    async with serving(Stamped) as web:
        answers = [await web.http.post("/predict", json=1), await web.http.post("/predict", content=b"{")]
        answers.append(await web.http.get("/health"))

    assert [answer.status_code for answer in answers] == [200, 415, 200]
    assert [answer.headers.get("Stamp") for answer in answers] == ["/predict", "/predict", "/health"]


async def test_ready_tells_what_is_missing() -> None:
    broker = MemoryBroker(SystemClock())
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    async with serving(bus=bus) as web:
        lonely = await web.http.get("/ready")
        async with AnsweringNode(broker.connect(), STREAM):
            ready = await web.http.get("/ready")
    async with serving(bus=bus, view=replace(WORKFLOW, stream="test_v1_missing")) as web:
        missing = await web.http.get("/ready")

    assert (lonely.status_code, "node echo is alive" in lonely.json()["detail"]) == (503, True)
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert (missing.status_code, "not deployed" in missing.json()["detail"]) == (503, True)


async def test_while_no_node_is_alive_requests_wait_in_the_stream_until_their_deadline() -> None:
    broker = MemoryBroker(SystemClock())
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    async with serving(bus=bus) as web:
        patient = asyncio.create_task(web.http.post("/predict", json={"inputs": 1, "timeout": 30}))
        late = await web.http.post("/predict", json={"inputs": 2, "timeout": 0.1})
        stored = (await bus.stream_state(STREAM)).messages
        async with AnsweringNode(broker.connect(), STREAM):
            answered = await patient

    assert (late.status_code, late.json()["outcome"], stored) == (504, "timeout", 2)
    assert (answered.status_code, answered.json()) == (200, 1)


async def test_the_types_that_nodes_tell_are_checked_from_their_first_beat() -> None:
    async with echo_workflow() as bus, serving(bus=bus) as web:
        before = await web.http.post("/predict", json={"city": 5})
        told = {names.SCHEMAS: {"inputs": ORDERS.inputs, "outputs": ORDERS.outputs}}
        record = ServiceRecord.of_this_process(names.NODE, NODE)
        presence = await bus.expiring_key_value(names.PRESENCE_BUCKET, ttl_s=60)
        key = names.presence_key(names.NODE, STREAM, NODE, record.instance)
        await presence.put(key, replace(record, metadata=told).encode())
        after = await web.http.post("/predict", json={"city": 5})
        schema = (await web.http.get("/schema")).json()

    assert (before.status_code, after.status_code) == (200, 400)
    assert schema == {"workflow": "echo", "inputs": ORDERS.inputs, "outputs": ORDERS.outputs}


async def test_a_port_of_its_own_is_taken_and_the_configured_one_wins() -> None:
    own, configured = free_port(), free_port()

    async with hosted(lambda: FastAPIDriver(port=own)) as runner:
        await until(lambda: bool(runner.services))
        first = runner.services[0].port
    async with hosted(lambda: FastAPIDriver(port=own), terms=DriverTerms(ports={"http": configured})) as runner:
        await until(lambda: bool(runner.services))
        second = runner.services[0].port

    assert (first, second) == (own, configured)
