"""A node with its measurements in InfluxDB: they arrive with its settings, and a silent server delays no message."""

import time
from collections.abc import Iterator

import pytest

from runtime.stores.point_queue import CLOSE_S
from test.integration.conftest import OpenWorkbench
from test.support.influx_stub import Answer, InfluxStub
from test.support.node import node_spec

MEASURING_ECHO = """
async def handler(ctx, data: int):
    ctx.measurement.save("seen", {"value": data})
    return data
"""


@pytest.fixture
def stub() -> Iterator[InfluxStub]:
    server = InfluxStub()
    yield server
    server.close()


async def test_measurements_of_a_handler_arrive_in_the_bucket_of_the_settings(
    open_workbench: OpenWorkbench, stub: InfluxStub
) -> None:
    bench = await open_workbench(MEASURING_ECHO)
    child = await bench.start_child(
        node_spec(), INFLUX_URI=stub.url, INFLUX_TOKEN="t0ken", INFLUX_ORG="lab", INFLUX_BUCKET="krt"
    )

    await bench.feed(range(10))
    await bench.see(10)
    child.terminate()
    assert await child.exit_code() == 0

    seen = [line for line in stub.stored if line.startswith("seen,")]
    assert sorted(line.split()[1] for line in seen) == [f"value={n}i" for n in range(10)]
    assert {request.query["bucket"] for request in stub.requests} == {"krt"}
    assert {request.headers["Authorization"] for request in stub.requests} == {"Token t0ken"}
    assert "t0ken" not in child.log()


async def test_a_silent_server_delays_neither_a_message_nor_the_end(
    open_workbench: OpenWorkbench, stub: InfluxStub
) -> None:
    stub.answers += [Answer(hangs=True)] * 100
    bench = await open_workbench(MEASURING_ECHO)
    child = await bench.start_child(node_spec(), INFLUX_URI=stub.url)

    await bench.feed(range(2_000))
    assert sorted(await bench.see(2_000)) == list(range(2_000))
    await bench.settled()
    start = time.monotonic()
    child.terminate()
    assert await child.exit_code() == 0

    assert stub.requests
    assert time.monotonic() - start < CLOSE_S + 3
    assert await bench.stored() == 2_000
