"""The webhook source: who is let in, and what each outcome answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from runtime.drivers.runner import DriverRunner
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver
from runtime.drivers.sources.webhook import WebhookSource
from test.support.drivers import hosted

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def sink() -> CollectSink:
    return CollectSink()


@pytest.fixture
async def running(sink: CollectSink) -> AsyncIterator[DriverRunner]:
    def make() -> SourceSinkDriver:
        driver = SourceSinkDriver()
        driver.add_source("hook", WebhookSource(path="/in", token="secret", max_body=100, timeout=0.05))
        driver.add_sink("out", sink)
        return driver

    async with hosted(make) as runner, asyncio.timeout(5):
        while not runner.services:  # noqa: ASYNC110 - its change is told to one listener only
            await asyncio.sleep(0.002)
        yield runner


@pytest.fixture
async def client(running: DriverRunner) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.services[0].port}", headers=TOKEN) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b'{"n": 1}', 200, "ok"),
        (b"{oops", 400, "invalid"),
        (b"x" * 101, 413, "too-large"),
        (b'{"error": "too dark"}', 500, "failed"),
        (b'{"silent": true}', 504, "timeout"),
    ],
)
async def test_an_answer_says_how_the_item_ended(
    client: httpx.AsyncClient, body: bytes, status: int, outcome: str
) -> None:
    answer = await client.post("/in", content=body)

    assert (answer.status_code, answer.json()) == (status, {"outcome": outcome})


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "POST", "url": "/other"}, 404),
        ({"method": "GET", "url": "/in"}, 405),
        ({"method": "POST", "url": "/in", "headers": {"Authorization": "Bearer other"}}, 401),
        ({"method": "POST", "url": "/in", "headers": {"Authorization": ""}}, 401),
    ],
)
async def test_what_is_no_request_of_ours_is_refused(
    client: httpx.AsyncClient, sink: CollectSink, request_: dict[str, Any], status: int
) -> None:
    answer = await client.request(**request_)

    assert answer.status_code == status
    assert sink.outputs == []


async def test_headers_give_state_id_and_metadata(client: httpx.AsyncClient, sink: CollectSink) -> None:
    await client.post("/in", json=1, headers={"Krt-State-Id": "player-7", "Krt-Meta-unit": "m"})

    assert [(item.state_id, dict(item.metadata)) for item in sink.items] == [("player-7", {"unit": "m"})]
