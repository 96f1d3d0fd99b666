"""A sink dies at any point, or its store is away: every message is stored once, and none is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from runtime import wire
from runtime.bus.base import CoreMessage
from runtime.message import Message
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.node import NodeSpec
from runtime.spec.selection import Conditions
from runtime.spec.sink import DocumentSink, PointSink
from runtime.stores.open import open_documents, open_points
from runtime.stores.writer import Writer
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.kill_at import NODE_POINTS, SINK_POINTS
from test.support.node import ENTRYPOINT, STREAM, environment, node_spec
from test.support.runtime_child import PATIENCE_S

pytestmark = pytest.mark.attack

MESSAGES = [{"id": number, "value": number} for number in range(20)]
DOCUMENTS = node_spec(sink=DocumentSink(collection="scores"))
KEYED = node_spec(sink=DocumentSink(collection="scores", key="id"))
POINTS = node_spec(sink=PointSink(measurement="score", fields=("value",)))

OF_THE_NODE = ["taken", "before the end is decided", "before the ack", "ack written"]
assert set(OF_THE_NODE) <= NODE_POINTS.keys()
KILLS = [
    *((spec, point) for spec in (DOCUMENTS, KEYED) for point in [*OF_THE_NODE, *SINK_POINTS] if "point" not in point),
    *((POINTS, point) for point in [*OF_THE_NODE, *SINK_POINTS] if "document" not in point),
]

Serve = Callable[[Workbench], Awaitable[None]]


@pytest.fixture
async def serve_writer() -> AsyncIterator[Serve]:
    """Serve documents of a workbench from the SQLite file of its node; ended after the test."""
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []

        async def serve(bench: Workbench) -> None:
            store = open_documents(environment(bench.folder)["KRT_MONGO_URI"])
            writer = Writer(store)
            tasks.append(group.create_task(writer.run(), name="writer"))

            async def answer(request: CoreMessage) -> None:
                body = await writer.handle(request.data, request.headers.get(names.DOCUMENT_ID_HEADER, ""))
                bench.bus.send(request.reply, body)

            def on_request(request: CoreMessage) -> None:
                group.create_task(answer(request), name="answer of the writer")

            await bench.bus.subscribe("mongo_writer", on_request, queue=names.WRITER_QUEUE)

        yield serve
        for task in tasks:
            task.cancel()


async def stored(bench: Workbench, spec: NodeSpec) -> list[Any]:
    """Return the values that are stored, in any order; one that is there twice comes twice."""
    variables = environment(bench.folder)
    if isinstance(spec.sink, DocumentSink):
        documents = open_documents(variables["KRT_MONGO_URI"])
        found = [document["value"] for document in await documents.find("scores", {})]
        await documents.close()
    else:
        points = open_points(variables["KRT_INFLUX_URI"])
        found = [point.fields["value"] for point in await points.query("score")]
        await points.close()
    return sorted(found)


@pytest.mark.timeout(40)
@pytest.mark.parametrize(("spec", "point"), KILLS, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_kill_at_any_point_stores_each_message_once(
    open_workbench: OpenWorkbench, serve_writer: Serve, spec: NodeSpec, point: str
) -> None:
    bench = await open_workbench("", ack_wait_s=1.0, spec=spec)
    await serve_writer(bench)
    victim = bench.launch_child(spec, module=("test.support.kill_at", point, "7"))
    await victim.ready()
    await bench.feed(MESSAGES)
    assert await victim.exit_code() == -signal.SIGKILL

    await bench.start_child(spec)
    await bench.settled()

    assert await stored(bench, spec) == list(range(20))
    assert (await bench.stored(), await bench.dead_letters()) == (0, 0)


@pytest.mark.timeout(40)
async def test_messages_wait_for_a_writer_that_comes_late(open_workbench: OpenWorkbench, serve_writer: Serve) -> None:
    spec = KEYED.model_copy(update={"timeout_s": 0.5})
    bench = await open_workbench("", ack_wait_s=1.0, spec=spec)
    await bench.start_child(spec)
    await bench.feed(MESSAGES)
    async with asyncio.timeout(PATIENCE_S):
        while not any(state.redelivered for state in await bench.bus.consumer_states(STREAM)):
            continue

    await serve_writer(bench)
    await bench.settled()

    assert await stored(bench, spec) == list(range(20))
    assert await bench.dead_letters() == 0


@pytest.mark.timeout(40)
async def test_replicas_store_what_fits_once_and_leave_out_the_rest(open_workbench: OpenWorkbench) -> None:
    spec = POINTS.model_copy(update={"when": {ENTRYPOINT: Conditions(headers={"kind": ("scan", "fax")})}})
    bench = await open_workbench("", ack_wait_s=1.0, spec=spec)
    replicas = [await bench.start_child(spec) for _ in range(2)]
    publisher = bench.bus.publisher(STREAM)

    for number in range(300):
        kind = ("scan", "text", "fax")[number % 3]
        message = Message(request_id=f"r{number}", payload=encode_value({"value": number}), headers={"kind": kind})
        await publisher.publish(ENTRYPOINT, wire.encode(message), message_id=f"in.{number}", confirm=lambda error: None)
    await publisher.flush()
    replicas[0].kill()
    await bench.settled()
    await publisher.close()

    assert await stored(bench, spec) == [number for number in range(300) if number % 3 != 1]
    assert await bench.dead_letters() == 0
