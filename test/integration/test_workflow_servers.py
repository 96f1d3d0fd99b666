"""A workflow as `krt compose` plans it, its processes on NATS, MongoDB and InfluxDB: what is sent is in all three."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from runtime.bus.nats import NatsBus
from runtime.client import Workflow as Client
from runtime.deploy.plan import Target, plan
from runtime.deploy.supervisor import Supervisor
from runtime.deploy.wiring import stream_of
from runtime.spec import names
from runtime.spec.load import load
from runtime.spec.model import Workflow
from test.support.influx_server import InfluxServer
from test.support.mongo import MongoServer

NATS_VARIABLE = "KRT_TEST_NATS_URL"
# Seconds until every process works, and until an answer comes, on a machine that does other things as well.
PATIENCE_S = 30.0
MESSAGES = 50

WORKFLOW = "name: flow\nstream: {max_bytes: 10Mi}\nnodes: [{name: double, replicas: 2}, {name: store}]\n"
DOUBLE = "def handler(ctx, data: int) -> int:\n    return 2 * data\n"
STORE = """
async def handler(ctx, data: int) -> int:
    await ctx.db.save("doubled", {"value": data})
    ctx.measurement.save("doubled", {"value": data}, {"number": str(data)})
    return data
"""


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> str:
    return os.environ.get(NATS_VARIABLE) or str(request.getfixturevalue("nats_server").url)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    for name, handler in (("double", DOUBLE), ("store", STORE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").write_text(handler)
    return load(tmp_path)


@pytest.fixture
def target(workflow: Workflow, nats_url: str, mongo_server: MongoServer, influx_server: InfluxServer) -> Target:
    # Of its own: the servers may be somebody else's.
    runtime_id = f"test-{secrets.token_hex(4)}"
    return Target(
        nats_servers=(nats_url,),
        mongo_uri=mongo_server.uri,
        influx_uri=influx_server.url,
        influx_token=influx_server.token,
        influx_org=influx_server.org,
        influx_bucket=influx_server.create_database(),
        base_path=str(workflow.folder),
        runtime_id=runtime_id,
        # KRE's way to say which database: see `documents`.
        writer_subject=f"{names.WRITER_SUBJECT}_data.{runtime_id}",
    )


@pytest.fixture
async def supervisor(workflow: Workflow, target: Target) -> AsyncIterator[Supervisor]:
    """Run every process of the workflow; what they print is shown when the test fails."""
    async with Supervisor(on_line=lambda name, line: print(f"{name} | {line}")) as running:
        await running.start(plan(workflow, target))
        async with asyncio.timeout(PATIENCE_S):
            await running.wait_until(lambda states: all(state.works for state in states))
        yield running


@pytest.fixture
def documents(target: Target) -> Iterator[pymongo.collection.Collection[dict[str, Any]]]:
    database = f"{target.runtime_id}-data"
    with pymongo.MongoClient[dict[str, Any]](target.mongo_uri) as client:
        yield client[database]["doubled"]
        client.drop_database(database)


async def test_every_message_is_answered_and_stored_once_in_mongodb_and_influxdb(
    workflow: Workflow,
    target: Target,
    supervisor: Supervisor,
    documents: pymongo.collection.Collection[dict[str, Any]],
    influx_server: InfluxServer,
) -> None:
    stream = stream_of(workflow, target.runtime_id)
    bus = await NatsBus.connect(list(target.nats_servers), name="test")

    async with Client(bus, stream) as client:
        answers = await asyncio.gather(*(client.predict(n, timeout_s=PATIENCE_S) for n in range(MESSAGES)))
    await bus.close()
    # Measurements that still wait are written at the end of their process.
    await supervisor.stop()

    expected = [2 * n for n in range(MESSAGES)]
    points = influx_server.points(target.influx_bucket, "doubled")
    assert answers == expected
    assert sorted(document["value"] for document in documents.find()) == expected
    assert sorted(point.fields["value"] for point in points) == expected
