"""What HTTP costs: a workflow of one node behind `FastAPIDriver`, beside the bare call, plain FastAPI and BentoML.

The callers share the machine with what they measure, and so are raw sockets: an HTTP library would be the slower side.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import quantiles

import orjson

from runtime.client import Workflow
from test.bench import bentoml, payloads
from test.bench.driver_process import alternate, driver, running
from test.bench.processes import BenchError, Child, clean_environment, start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench
from test.support.ports import free_port

SIZE_BYTES = 200
CONNECTIONS = 64
OVERHEAD = Target(bound=3.0, at_most=True)
RATE = Target(bound=1_000.0)
RATE_NAME = f"HTTP, {CONNECTIONS} connections"


class Connection:
    """One connection that sends the same request again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    @classmethod
    async def open(cls, port: int, body: bytes) -> "Connection":
        head = f"POST /predict HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return cls(*await asyncio.open_connection("127.0.0.1", port), head.encode() + b"\r\n\r\n" + body)

    async def call(self) -> None:
        self._writer.write(self._request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise BenchError(f"a request was not answered with 200: {head.decode()}")
        await self._reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))

    def close(self) -> None:
        self._writer.close()


async def measure(bench: Workbench, requests: int, seconds: float) -> list[Row]:
    """Send `requests` one after the other, then as many as go through in `seconds` over all connections."""
    value = payloads.json_of_size(SIZE_BYTES)
    body = orjson.dumps(value)
    async with (
        bench.chain(1) as [stage],
        running(start_node(stage, bench.folder)),
        driver(bench, stage, "http") as port,
        _peers(bench) as (peers, missing),
        Workflow(bench.bus, stage.stream) as workflow,
    ):

        async def bare() -> None:
            await workflow.predict(value)

        ports = {**peers, "http driver": port}
        single = {who: await Connection.open(at, body) for who, at in ports.items()}
        calls = {who: connection.call for who, connection in single.items()}
        times = await alternate({"workflow call": bare, **calls}, requests)
        for connection in single.values():
            connection.close()
        rates = {who: await rate(at, body, seconds) for who, at in ports.items()}
    return [*_latency_rows(times), *_rate_rows(rates), *missing]


async def rate(port: int, body: bytes, seconds: float) -> float:
    """Return the requests a second over all connections."""
    connections = [await Connection.open(port, body) for _ in range(CONNECTIONS)]
    started_s = time.perf_counter()

    async def keep_calling(connection: Connection) -> int:
        count = 0
        while time.perf_counter() - started_s < seconds:
            await connection.call()
            count += 1
        return count

    counts = await asyncio.gather(*(keep_calling(connection) for connection in connections))
    took_s = time.perf_counter() - started_s
    for connection in connections:
        connection.close()
    return sum(counts) / took_s


def _latency_rows(times: dict[str, list[float]]) -> list[Row]:
    medians = {who: quantiles(measured, n=100)[49] for who, measured in times.items()}
    rows = [Row(name="HTTP, one request, p50", who=who, value=value, unit="ms") for who, value in medians.items()]
    overhead = medians["http driver"] - medians["workflow call"]
    return [*rows, Row(name="HTTP over the call, p50", who="http driver", value=overhead, unit="ms", target=OVERHEAD)]


def _rate_rows(rates: dict[str, float]) -> list[Row]:
    ours = rates["http driver"]
    peers = {who: rate for who, rate in rates.items() if who != "http driver"}
    return [
        *(Row(name=RATE_NAME, who=who, value=rate, unit="req/s") for who, rate in peers.items()),
        Row(name=RATE_NAME, who="http driver", value=ours, unit="req/s", target=RATE),
        *(Row(name=RATE_NAME, who="http driver", value=ours / rate, unit=f"× {who}") for who, rate in peers.items()),
    ]


@asynccontextmanager
async def _peers(bench: Workbench) -> AsyncIterator[tuple[dict[str, int], list[Row]]]:
    """Serve the handler without a workflow; yields the ports by name, and rows for who could not be installed."""
    async with AsyncExitStack() as stack:
        ports = {"fastapi": await stack.enter_async_context(_plain(bench))}
        missing = []
        try:
            python = await bentoml.installed()
        except bentoml.NotInstalledError as error:
            missing.append(Row.missing(RATE_NAME, bentoml.NAME, str(error)))
        else:
            ports[bentoml.NAME] = await stack.enter_async_context(bentoml.served(bench, python))
        yield ports, missing


@asynccontextmanager
async def _plain(bench: Workbench) -> AsyncIterator[int]:
    port = free_port()
    ready, other_side = os.pipe()
    command = [sys.executable, "-m", "test.bench.peers.plain_fastapi", str(port), str(other_side)]
    environment = clean_environment() | {"KRT_READY_FD": str(other_side)}
    async with running(Child(command, environment, bench.folder / "fastapi.log", ready)):
        yield port
