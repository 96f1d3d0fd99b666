"""A client that goes away while its request waits behind a slow one: the node never calls its handler for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.drivers import GRPCDriver
from runtime.drivers.inference import WorkflowView
from runtime.node.process import NodeProcess
from test.integration.conftest import OpenWorkbench
from test.support.drivers import hosted
from test.support.http import Web, predict_bytes, serving
from test.support.node import OUTPUT, STREAM, node_spec
from test.support.rpc import RpcClient, write_proto
from test.support.waiting import until

VIEW = WorkflowView(name="greeter", stream=STREAM, output_subjects=(OUTPUT,))
HANDLER = """
import asyncio

calls, go = [], asyncio.Event()

async def handler(ctx, data: dict) -> dict:
    calls.append(data["text"])
    if data["text"] == "slow":
        await go.wait()
    return data
"""

# Sends a request with the text `left`, and returns what makes its client go away.
Send = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]


@pytest.fixture
async def node(open_workbench: OpenWorkbench) -> NodeProcess:
    """Run a node that handles one message at a time."""
    bench = await open_workbench(HANDLER)
    return await bench.start_here(node_spec(exit_channel="main", concurrency=1))


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="driver", request_timeout_s=2.0)
    yield bus
    await bus.close()


async def check_skipped(node: NodeProcess, bus: NatsBus, web: Web, send: Send) -> None:
    module: Any = node._handler.module
    slow = asyncio.create_task(web.http.post("/predict", json={"text": "slow"}))
    await until(lambda: module.calls == ["slow"])
    before = (await bus.stream_state(STREAM)).last_sequence
    leave = await send()
    async with asyncio.timeout(10):
        while (await bus.stream_state(STREAM)).last_sequence == before:
            pass

    await leave()
    await until(lambda: bool(node._cancellations))
    module.go.set()
    answers = [await slow, await web.http.post("/predict", json={"text": "next"})]

    assert [answer.json() for answer in answers] == [{"text": "slow"}, {"text": "next"}]
    assert module.calls == ["slow", "next"]
    assert node.metrics.totals()["cancelled"] == 1


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_the_request_of_an_http_client_that_disconnects_is_skipped(
    node: NodeProcess, bus: NatsBus, accept: str
) -> None:
    async with serving(bus=bus, view=VIEW) as web:

        async def send() -> Callable[[], Awaitable[None]]:
            _, writer = await web.send_raw(predict_bytes({"text": "left"}, f"Accept: {accept}"))

            async def leave() -> None:
                writer.close()
                await writer.wait_closed()

            return leave

        await check_skipped(node, bus, web, send)


async def test_a_task_that_is_cancelled_is_skipped_whichever_driver_is_told(node: NodeProcess, bus: NatsBus) -> None:
    async with serving(bus=bus, view=VIEW) as web, serving(bus=bus, view=VIEW) as other:

        async def send() -> Callable[[], Awaitable[None]]:
            task_id = await other.task({"text": "left"})

            async def leave() -> None:
                assert (await web.http.delete(f"/tasks/{task_id}")).status_code == 204

            return leave

        await check_skipped(node, bus, web, send)


async def test_a_task_that_is_cancelled_is_skipped(node: NodeProcess, bus: NatsBus) -> None:
    async with serving(bus=bus, view=VIEW) as web:

        async def send() -> Callable[[], Awaitable[None]]:
            task_id = await web.task({"text": "left"})

            async def leave() -> None:
                assert (await web.http.delete(f"/tasks/{task_id}")).status_code == 204

            return leave

        await check_skipped(node, bus, web, send)


@asynccontextmanager
async def calling(folder: Path, bus: NatsBus) -> AsyncIterator[RpcClient]:
    """Serve the workflow by gRPC, and yield a client of it."""
    proto = write_proto(folder)
    async with hosted(lambda: GRPCDriver(proto, payload="json"), bus, view=VIEW) as driver:
        await until(lambda: bool(driver.services))
        async with RpcClient(proto, driver.services[0].port) as client:
            yield client


async def test_a_grpc_call_that_is_cancelled_is_skipped(node: NodeProcess, bus: NatsBus, tmp_path: Path) -> None:
    async with serving(bus=bus, view=VIEW) as web, calling(tmp_path, bus) as client:

        async def send() -> Callable[[], Awaitable[None]]:
            call = client.start("Say", text="left")

            async def leave() -> None:
                call.cancel()
                await asyncio.wait([asyncio.ensure_future(call.code())])

            return leave

        await check_skipped(node, bus, web, send)
