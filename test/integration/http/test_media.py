"""Files, arrays and tables over HTTP: as bodies of their own types, and as JSON."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from PIL import Image

from runtime import File, wire
from runtime.bus.base import Bus
from runtime.drivers import FastAPIClient
from runtime.drivers.base import WorkflowSchema
from runtime.payload import decode_value
from runtime.spec.edges import EdgeType, edge_schema
from test.support.drivers import STREAM, WORKFLOW, echo_workflow
from test.support.http import Web, serving

NPY, ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
TABLE = pa.table({"id": [1, 2], "name": ["a", None]})


@asynccontextmanager
async def taking(kind: Any, dtype: str = "") -> AsyncIterator[tuple[Web, Bus]]:
    """Run a driver for a workflow that takes such values, and answers with what it got."""
    schema = WorkflowSchema(inputs=edge_schema(EdgeType(kind=kind, dtype=dtype)))
    async with echo_workflow() as bus, serving(bus=bus, view=replace(WORKFLOW, find_schema=lambda: schema)) as web:
        yield web, bus


async def sent(bus: Bus) -> Any:
    """Return what the first node was sent."""
    return decode_value(wire.decode((await bus.get_message(STREAM, 1)).data).payload)


async def count_sent(bus: Bus) -> int:
    return (await bus.stream_state(STREAM)).messages


async def post(web: Web, content: bytes, content_type: str, **headers: str) -> httpx.Response:
    return await web.http.post("/predict", content=content, headers={"Content-Type": content_type, **headers})


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, "PNG")
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def arrow(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


# --- files ---


async def test_an_image_goes_in_and_comes_out_as_the_file_it_was() -> None:
    image = png()

    async with taking("file") as (web, bus):
        headers = {b"Content-Type": b"image/png", b"Krt-File-Name": "röd.png".encode()}
        answer = await web.http.post("/predict", content=image, headers=headers)
        received = await sent(bus)

    assert received == File(image, "image/png", "röd.png")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, image, "image/png")
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''r%C3%B6d.png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_json_is_a_file_too_where_files_are_taken() -> None:
    async with taking("file") as (web, bus):
        await post(web, b'{"inputs": 1}', "application/json; charset=utf-8")

        assert await sent(bus) == File(b'{"inputs": 1}', "application/json; charset=utf-8")


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data; boundary=x", "Text/Plain;x"])
async def test_what_a_form_of_any_site_can_send_is_no_file(content_type: str) -> None:
    async with taking("file") as (web, bus):
        answer = await post(web, b"x", content_type)

        assert (answer.status_code, answer.json()["outcome"]) == (415, "invalid")
        assert await count_sent(bus) == 0


async def test_a_wrong_content_type_is_refused() -> None:
    async with taking("file") as (web, _):
        answer = await post(web, b"x", "png")

    assert (answer.status_code, answer.json()["outcome"]) == (400, "invalid")


async def test_an_image_is_refused_where_json_is_taken() -> None:
    async with taking("json") as (web, bus):
        answer = await post(web, png(), "image/png")

        assert (answer.status_code, await count_sent(bus)) == (415, 0)


# --- arrays ---


async def test_an_array_goes_in_as_a_file_of_numpy_and_comes_out_as_json() -> None:
    async with taking("array", "float32") as (web, bus):
        answer = await post(web, npy(ARRAY), NPY)
        received = await sent(bus)

    assert (received.dtype, received.tolist()) == (np.float32, ARRAY.tolist())
    assert (answer.status_code, answer.json()) == (200, ARRAY.tolist())


async def test_an_array_comes_out_as_a_file_of_numpy_where_the_client_accepts_it() -> None:
    async with taking("array") as (web, _):
        answer = await post(web, npy(np.asfortranarray(ARRAY)), NPY, Accept=f"{NPY}, application/json")

    assert answer.headers["Content-Type"] == NPY
    assert np.load(io.BytesIO(answer.content)).tolist() == ARRAY.tolist()


async def test_lists_are_read_as_the_dtype_that_is_taken() -> None:
    async with taking("array", "float32") as (web, bus):
        answer = await web.http.post("/predict", json={"inputs": [[1, 2]], "state_id": "cam-1"})
        received = await sent(bus)

    assert (received.dtype, received.tolist(), answer.json()) == (np.float32, [[1.0, 2.0]], [[1.0, 2.0]])


async def test_an_array_without_a_form_in_json_comes_out_as_a_file_of_numpy() -> None:
    async with taking("array") as (web, _):
        answer = await post(web, npy(np.array([1 + 2j])), NPY)

    assert answer.headers["Content-Type"] == NPY
    assert np.load(io.BytesIO(answer.content)).tolist() == [1 + 2j]


async def test_what_json_has_no_word_for_is_null() -> None:
    async with taking("array") as (web, _):
        answer = await post(web, npy(np.array([np.nan, 1.5])), NPY)

    assert answer.json() == [None, 1.5]


HUGE = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }".ljust(128)


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"nonsense", NPY, 400),
        (npy(ARRAY)[:-1], NPY, 400),
        (npy(np.zeros(2, [("a", "f4")])), NPY, 400),
        (HUGE, NPY, 400),
        (b"[[1], [1, 2]]", "application/json", 400),
        (b'["a"]', "application/json", 400),
        (b"[null]", "application/json", 400),
        (b"\0", "application/octet-stream", 415),
        (b"\0", "image/png", 415),
    ],
)
async def test_what_is_no_array_is_refused_and_nothing_is_sent(content: bytes, content_type: str, status: int) -> None:
    async with taking("array", "int64") as (web, bus):
        answer = await post(web, content, content_type)

        assert (answer.status_code, answer.json()["outcome"]) == (status, "invalid"), answer.text
        assert await count_sent(bus) == 0


# --- tables ---


@pytest.mark.parametrize("accept", ["*/*", ARROW])
async def test_a_table_goes_in_as_an_arrow_stream_or_as_rows(accept: str) -> None:
    rows = TABLE.to_pylist()

    async with taking("table") as (web, bus):
        answers = [
            await post(web, arrow(TABLE), ARROW, Accept=accept),
            await web.http.post("/predict", json=rows, headers={"Accept": accept}),
        ]
        assert (await sent(bus)).equals(TABLE)

    for answer in answers:
        is_stream = answer.headers["Content-Type"] == ARROW
        table = pa.ipc.open_stream(answer.content).read_all().to_pylist() if is_stream else answer.json()
        assert (is_stream, table) == (accept == ARROW, rows)


@pytest.mark.parametrize(("content", "content_type"), [(b"x", ARROW), (b"[1]", "application/json")])
async def test_what_is_no_table_is_refused(content: bytes, content_type: str) -> None:
    async with taking("table") as (web, bus):
        answer = await post(web, content, content_type)

        assert (answer.status_code, await count_sent(bus)) == (400, 0)


# --- tasks and events ---


async def test_the_result_of_a_task_is_the_file() -> None:
    image = png()

    async with taking("file") as (web, _):
        made = await web.http.post("/tasks", content=image, headers={"Content-Type": "image/png"})
        answer = await web.http.get(f"/tasks/{made.json()['task_id']}?wait=10s")

    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, image, "image/png")


async def test_events_have_json_for_what_is_none() -> None:
    events = {"Accept": "text/event-stream"}

    async with taking("file") as (web, _):
        file = await post(web, b"123", "image/png", **events)
    async with taking("array") as (web, _):
        array = await post(web, npy(ARRAY), NPY, **events)

    assert 'data: {"data":{"base64":"MTIz"},"content_type":"image/png","name":""}' in file.text
    assert "data: [[0.0,1.0,2.0],[3.0,4.0,5.0]]" in array.text


# --- the client ---


async def test_the_client_sends_files_arrays_and_tables_and_gets_files() -> None:
    file = File(png(), "image/png", "röd.png")

    async with taking("file") as (web, bus), FastAPIClient(port=web.port) as client:
        answers = [await client.apredict(file), await client.atask_result(await client.apredict_task(file))]
        assert await sent(bus) == file
    async with taking("array") as (web, _), FastAPIClient(port=web.port) as client:
        answers += [await client.apredict(ARRAY), await client.apredict(np.array([1j]))]
    async with taking("table") as (web, _), FastAPIClient(port=web.port) as client:
        answers.append(await client.apredict(TABLE, state_id="cam-1"))
        answers.append(await client.apredict(TABLE.to_pandas()))

    assert answers[:3] == [file, file, ARRAY.tolist()]
    assert answers[3].tolist() == [1j]
    assert answers[4] == answers[5] == TABLE.to_pylist()


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("file", {"*/*"}),
        ("array", {"application/json", NPY}),
        ("table", {"application/json", ARROW}),
        ("json", {"application/json"}),
    ],
)
async def test_the_openapi_document_has_the_types_of_bodies(kind: str, taken: set[str]) -> None:
    async with taking(kind) as (web, _):
        document = (await web.http.get("/openapi.json")).json()

    assert document["paths"]["/predict"]["post"]["requestBody"]["content"].keys() == taken
