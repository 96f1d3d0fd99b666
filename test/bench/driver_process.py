"""A driver of a deployed workflow as a process, and calls that take turns: what the measurements of drivers share."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from runtime.spec.driver import DriverSpec
from test.bench.processes import Child, Stage, clean_environment
from test.bench.workbench import Workbench
from test.support.ports import free_port

WARM_UP = 50
# Requests that one contender gets before it is the other's turn, so that both see the same machine.
BLOCK = 50

Call = Callable[[], Awaitable[None]]


async def alternate(calls: dict[str, Call], requests: int) -> dict[str, list[float]]:
    """Return the milliseconds of each call, block by block in turn."""
    times: dict[str, list[float]] = {who: [] for who in calls}
    for call in calls.values():
        await _timed(call, WARM_UP)
    for _ in range(max(1, requests // BLOCK)):
        for who, call in calls.items():
            times[who] += await _timed(call, BLOCK)
    return times


async def _timed(call: Call, count: int) -> list[float]:
    times = []
    for _ in range(count):
        started_s = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started_s) * 1e3)
    return times


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[None]:
    try:
        await child.wait_ready()
        yield
    finally:
        await child.stop()


@asynccontextmanager
async def driver(bench: Workbench, stage: Stage, kind: str, **parameters: Any) -> AsyncIterator[int]:
    """Run a built-in driver, whose port is called as its class, in front of a workflow; yields the port."""
    port = free_port()
    spec = DriverSpec(
        ref="bench",
        driver=kind,
        workflow="bench",
        stream=stage.stream,
        output_subjects=(stage.target,),
        ports={kind: port},
        parameters=parameters,
    )
    ready, other_side = os.pipe()
    environment = clean_environment() | {
        "KRT_NATS_SERVER": bench.server.url,
        "KRT_DRIVER_SPEC": spec.model_dump_json(),
        "KRT_LOG_LEVEL": "WARN",
        "KRT_READY_FD": str(other_side),
    }
    command = [sys.executable, "-m", "runtime", "driver"]
    async with running(Child(command, environment, bench.folder / f"driver-{kind}.log", ready)):
        await _accepting(port)
        yield port


async def _accepting(port: int) -> None:
    """Wait until the port is served: a driver is ready before its port is."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
