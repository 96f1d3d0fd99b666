"""The workflow client against a real nats-server: load, errors, restart while waiting."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.client import Workflow
from runtime.errors import PredictionError
from test.support.answering_node import AnsweringNode, stream_config

STREAM = "test_v1_hello"


@pytest.fixture
async def bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="client")
    await bus.ensure_stream(stream_config(STREAM, storage="file"))
    yield bus
    await bus.close()


@pytest.fixture
async def node_bus(nats_server: EmbeddedServer) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect([nats_server.url], name="node")
    yield bus
    await bus.close()


@pytest.fixture
async def client(bus: NatsBus) -> AsyncIterator[Workflow]:
    async with Workflow(bus, STREAM) as client:
        yield client


async def test_two_thousand_requests_in_flight_are_answered_once_each(client: Workflow, node_bus: NatsBus) -> None:
    futures = [client.predict(number) for number in range(2_000)]
    assert client.in_flight == 2_000

    async with AnsweringNode(node_bus, STREAM) as node:
        answers = await asyncio.gather(*futures)

    assert answers == list(range(2_000))
    assert (client.in_flight, client.late_answers, len(node.received)) == (0, 0, 2_000)


async def test_an_error_a_timeout_and_a_cancel_reach_one_request_each(client: Workflow, node_bus: NatsBus) -> None:
    async with AnsweringNode(node_bus, STREAM):
        good = [client.predict(number) for number in range(100)]
        failing = client.predict({"error": "no such city"})
        silent = client.predict({"silent": True}, timeout_s=0.5)
        cancelled = client.predict({"silent": True})
        cancelled.cancel()

        ended = await asyncio.gather(failing, silent, return_exceptions=True)

        assert await asyncio.gather(*good) == list(range(100))
    assert [error.outcome for error in ended if isinstance(error, PredictionError)] == ["failed", "timeout"]
    assert client.in_flight == 0


async def test_requests_that_wait_survive_a_restart_of_the_server(
    nats_server: EmbeddedServer, bus: NatsBus, client: Workflow
) -> None:
    waiting = [client.predict(number) for number in range(500)]
    # Some are stored by now, some sent, some not; all have to come through.
    await bus.stream_state(STREAM)

    await nats_server.stop()
    late = [client.predict(number) for number in range(500, 600)]
    await nats_server.start()
    # An answer comes through once the client has subscribed again, which it has when it can ask for the stream.
    await bus.stream_state(STREAM)

    node_bus = await NatsBus.connect([nats_server.url], name="node")
    async with AnsweringNode(node_bus, STREAM) as node:
        assert await asyncio.gather(*waiting, *late) == list(range(600))
    await node_bus.close()

    assert len(node.received) == 600
