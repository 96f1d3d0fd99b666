"""Requests for runs in the stream of a workflow, on the in-memory bus."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator

import pytest

from runtime import payload, wire
from runtime.batch.request import InvalidRequestError
from runtime.batch.submit import submit
from runtime.bus.base import Bus, ConsumerConfig, Delivery, Reader
from runtime.bus.memory import MemoryBroker
from runtime.clock import SystemClock
from runtime.errors import MessageTooLargeError, NotFoundError
from runtime.spec import names
from test.support.answering_node import stream_config

STREAM = "test_v1_flow"
ENTRYPOINT = names.entrypoint_subject(STREAM)


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    bus = MemoryBroker(SystemClock(), max_payload_bytes=8_192).connect()
    await bus.ensure_stream(stream_config(STREAM))
    yield bus
    await bus.close()


async def reader_of(bus: Bus, node: str) -> Reader:
    config = ConsumerConfig(
        stream=STREAM,
        durable=names.durable(node, ["entrypoint"]),
        filter_subjects=(ENTRYPOINT, names.redrive_subject(node, ENTRYPOINT)),
    )
    reader = bus.reader(config, create=True)
    await reader.start()
    return reader


async def take(reader: Reader) -> Delivery:
    async with asyncio.timeout(5):
        return await reader.take()


async def test_a_request_reaches_its_node_alone_with_the_text_that_was_given(bus: Bus) -> None:
    flood, other = await reader_of(bus, "flood"), await reader_of(bus, "other")
    text = b'{"days": 1,  "days": 30}'

    runs = await submit(bus, STREAM, "flood", text, request_id="r1")
    await submit(bus, STREAM, "other", b"{}", request_id="r2")

    message = wire.decode((await take(flood)).data)
    assert runs == ("r1_flood_0",)
    assert (message.request_id, payload.json_text(message.payload)) == ("r1", text)
    assert wire.decode((await take(other)).data).request_id == "r2"
    await flood.close()
    await other.close()


async def test_every_model_of_a_request_is_a_run(bus: Bus) -> None:
    flood = await reader_of(bus, "flood")
    packed = base64.b64encode(gzip.compress(b"{}")).decode()
    models = {"id": 7, "models": [{"slug": "a"}, {"slug": "b"}], "configurationCompressed": packed}

    runs = await submit(bus, STREAM, "flood", json.dumps(models).encode(), request_id="r1")

    assert runs == ("r1_flood_0", "r1_flood_1")
    await flood.close()


async def test_the_same_request_is_stored_once_for_each_node(bus: Bus) -> None:
    flood, other = await reader_of(bus, "flood"), await reader_of(bus, "other")

    for node in ("flood", "flood", "other"):
        await submit(bus, STREAM, node, b"{}", request_id="r1")

    assert (await bus.stream_state(STREAM)).messages == 2
    await flood.close()
    await other.close()


async def test_an_invalid_request_is_told_of_before_anything_is_stored(bus: Bus) -> None:
    flood = await reader_of(bus, "flood")

    with pytest.raises(InvalidRequestError, match="has to be an object"):
        await submit(bus, STREAM, "flood", b"[1]", request_id="r1")

    assert (await bus.stream_state(STREAM)).messages == 0
    await flood.close()


async def test_a_request_that_is_too_large_is_told_of(bus: Bus) -> None:
    flood = await reader_of(bus, "flood")
    numbers = json.dumps({"seeds": [hash(str(number)) for number in range(2_000)]})

    with pytest.raises(MessageTooLargeError):
        await submit(bus, STREAM, "flood", numbers.encode(), request_id="r1")

    await flood.close()


async def test_a_node_that_is_not_there_is_told_of(bus: Bus) -> None:
    flood = await reader_of(bus, "flood")

    with pytest.raises(NotFoundError, match='no node "floods"'):
        await submit(bus, STREAM, "floods", b"{}", request_id="r1")

    await flood.close()
