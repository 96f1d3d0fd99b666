"""HTTP drivers on a real nats-server: away, full, killed drivers, and what idle clients cost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import orjson
import pytest

from runtime import payload, wire
from runtime.bus.base import Confirmation
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.client import Workflow
from runtime.drivers.fastapi_client import FastAPIClient, FastAPIClientError
from runtime.drivers.inference import WorkflowView
from runtime.message import Message
from runtime.spec import names
from test.support.answering_node import NODE, AnsweringNode, stream_config
from test.support.http import PATIENCE_S, Web, serving
from test.support.http_child import http_child

STREAM = "test_v1_echo"
VIEW = WorkflowView(name="echo", stream=STREAM, output_subjects=(names.node_subject(STREAM, NODE),))


@asynccontextmanager
async def connected(server: EmbeddedServer, name: str) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([server.url], name=name, request_timeout_s=1.0)
    yield bus
    await bus.close()


@asynccontextmanager
async def echo(server: EmbeddedServer, *, max_bytes: int = 0) -> AsyncIterator[tuple[NatsBus, Web]]:
    """Serve the echo workflow; yields a connection and the driver."""
    async with connected(server, "node") as node_bus, connected(server, "driver") as bus:
        await bus.ensure_stream(stream_config(STREAM, storage="file", max_bytes=max_bytes))
        async with AnsweringNode(node_bus, STREAM), serving(bus=bus, view=VIEW) as web:
            yield bus, web


async def answer_when(web: Web, accepted: Callable[[httpx.Response], bool]) -> httpx.Response:
    """Ask until an answer is as wanted; nothing else tells what a driver thinks of NATS."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await web.http.post("/predict", json={"inputs": 1, "timeout": 0.5})
            if accepted(answer):
                return answer
            await asyncio.sleep(0.05)


async def test_while_nats_is_away_requests_are_refused_and_waiting_ones_end_at_their_deadline(
    nats_server: EmbeddedServer,
) -> None:
    async with echo(nats_server) as (_, web):
        silent = web.http.post("/predict", json={"inputs": {"silent": True}, "timeout": 3})
        waiting = asyncio.create_task(silent)
        assert (await web.http.post("/predict", json=1)).status_code == 200

        await nats_server.stop()
        refused = await answer_when(web, lambda answer: answer.status_code == 503)
        alive, ready = await web.http.get("/health"), await web.http.get("/ready")
        task = await web.http.post("/tasks", json=1)

        assert (refused.json()["outcome"], refused.headers["Retry-After"]) == ("unavailable", "2")
        assert (alive.status_code, ready.status_code, task.status_code) == (200, 503, 503)
        assert (await waiting).status_code == 504

        await nats_server.start()
        await answer_when(web, lambda answer: answer.status_code == 200)


async def test_a_full_stream_is_unavailable_with_a_time_to_come_again(nats_server: EmbeddedServer) -> None:
    async with echo(nats_server, max_bytes=20_000) as (bus, web):
        await fill(bus)
        refused = await answer_when(web, lambda answer: answer.status_code == 503)

        assert (refused.json()["outcome"], refused.headers["Retry-After"]) == ("unavailable", "2")
        assert "is full" in refused.json()["detail"]
        async with FastAPIClient(port=web.port) as client:
            with pytest.raises(FastAPIClientError) as caught:
                await client.apredict(1)
        assert (caught.value.status, caught.value.outcome, caught.value.retry_after_s) == (503, "unavailable", 2.0)

        await bus.purge(STREAM, below=10_000)
        await answer_when(web, lambda answer: answer.status_code == 200)


async def test_a_body_larger_than_nats_takes_is_refused_with_413(
    start_nats_server: Callable[..., EmbeddedServer],
) -> None:
    async with echo(start_nats_server(max_payload=4096)) as (_, web):
        noise = [number * 7919 % 100_003 for number in range(5_000)]
        answer = await web.http.post("/predict", json=noise)

    assert (answer.status_code, answer.json()["outcome"]) == (413, "too-large")


async def test_idle_clients_cost_no_consumers(nats_server: EmbeddedServer) -> None:
    async with echo(nats_server) as (bus, web), AsyncExitStack() as stack:
        await web.http.post("/predict", json=1)
        before = [state.name for state in await bus.consumer_states(STREAM)], await consumers(nats_server)

        for _ in range(64):
            _, writer = await web.send_raw(b"")
            stack.callback(writer.close)
        task_id = await web.task({"silent": True}, timeout=30)
        waits = [asyncio.create_task(web.http.get(f"/tasks/{task_id}?wait=1s")) for _ in range(64)]
        await asyncio.sleep(0)
        during = [state.name for state in await bus.consumer_states(STREAM)], await consumers(nats_server)

        assert during == before
        assert {answer.status_code for answer in await asyncio.gather(*waits)} == {202}


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_driver_that_is_killed_after_it_took_a_task_still_has_its_result_given(
    nats_server: EmbeddedServer, restarts: bool
) -> None:
    async with connected(nats_server, "test") as bus, AsyncExitStack() as stack:
        await bus.ensure_stream(stream_config(STREAM, storage="file"))
        others = [] if restarts else [await stack.enter_async_context(serving(bus=bus, view=VIEW))]
        async with http_child(nats_server.url, STREAM, NODE) as (child, port):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                task_id = (await http.post("/tasks", json={"inputs": 7, "timeout": 60})).json()["task_id"]
            child.kill()
            await child.wait()

        [web] = others or [await stack.enter_async_context(serving(bus=bus, view=VIEW))]
        waiting = asyncio.create_task(web.http.get(f"/tasks/{task_id}", params={"wait": "9s"}))
        # A node that handles it only now, as after a restart of everything, and stores what it answers.
        await store(bus, Message(request_id=task_id, payload=payload.encode_value(7), from_node=NODE, outcome="ok"))
        answer = await waiting

    assert (answer.status_code, answer.json()) == (200, 7)


async def test_the_client_of_a_killed_driver_hears_of_it_and_other_requests_go_on(nats_server: EmbeddedServer) -> None:
    async with echo(nats_server) as (bus, other), http_child(nats_server.url, STREAM, NODE) as (child, port):
        async with FastAPIClient(port=port) as client, Workflow(bus, STREAM) as by_hand:
            task_id = await client.apredict_task({"silent": True}, timeout=60)
            waiting = asyncio.create_task(client.apredict({"silent": True}, timeout=60))
            # Asked on the same driver, and so answered after the other request was taken.
            assert await client.apredict(1) == 1

            child.kill()
            async with asyncio.timeout(2):
                with pytest.raises(FastAPIClientError) as caught:
                    await waiting

            assert await by_hand.predict(2) == 2
            assert (await other.http.post("/predict", json=3)).json() == 3
            assert (await other.http.get(f"/tasks/{task_id}")).status_code == 202

    assert (caught.value.status, caught.value.outcome) == (0, "unavailable")


async def store(bus: NatsBus, answer: Message) -> None:
    publisher, stored = bus.publisher(STREAM), Confirmation()
    subject = names.node_subject(STREAM, NODE)
    await publisher.publish(subject, wire.encode(answer), message_id=answer.request_id + ".out", confirm=stored)
    await stored
    await publisher.close()


async def fill(bus: NatsBus) -> None:
    """Store what nobody reads until the stream takes nothing more."""
    publisher = bus.publisher(STREAM, give_up_s=0.1)
    refusals: list[Exception | None] = []
    for number in range(100):
        subject = names.node_subject(STREAM, "other")
        await publisher.publish(subject, bytes(1_000), message_id=str(number), confirm=refusals.append)
    await publisher.flush()
    await publisher.close()
    assert any(refusals)


async def consumers(server: EmbeddedServer) -> int:
    """Return how many consumers the server has, temporary ones included."""
    async with connected(server, "counter") as bus:
        info = await bus.request("$JS.API.INFO", b"", timeout_s=5)
    return int(orjson.loads(info.data)["consumers"])
