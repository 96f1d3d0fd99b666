"""What a call of an algorithm costs beside a bare request, how long listing takes, and PING while slots compute."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

from runtime.algorithms import Algorithms
from runtime.bus.nats import NatsBus
from test.bench.processes import BenchError, Child, clean_environment
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

BARE_SUBJECT = "bench.bare"
WARM_UP = 50
RUNNERS, ALGORITHMS = 10, 100
# New clients that list one after the other.
LISTINGS = 20
# Calls that compute at once, for so many seconds, and questions meanwhile.
SLOTS = 2
COMPUTE_S = 4.0
PINGS = 100
# Seconds until something that has to happen is taken for lost.
PATIENCE_S = 60.0

CALL = Target(bound=2.0, at_most=True)
LISTED_MS = Target(bound=300, at_most=True)
PING_MS = Target(bound=100, at_most=True)

ADAPTER = """
import time

def run_empty(): ...

def run_compute(seconds: float):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
"""


async def measure(bench: Workbench, requests: int) -> list[Row]:
    """Take the three figures."""
    return [*await _calls(bench, requests), await _listing(bench), *await _pings(bench)]


async def _calls(bench: Workbench, requests: int) -> list[Row]:
    """Return the time of a call and of a bare request, one after the other in turn, to a process each."""
    echo = _start(
        bench, "echo", [sys.executable, "-m", "test.bench.peers.echo_service", bench.server.url, BARE_SUBJECT]
    )
    async with _runner(bench, "one", ADAPTER), Algorithms(bench.bus) as client:
        try:
            await echo.wait_ready()
            ways: dict[str, Callable[[], Awaitable[object]]] = {
                "bare request": lambda: bench.client.request(BARE_SUBJECT, b"{}", timeout=5),
                "krt": lambda: client.call("empty", b"{}", timeout_s=5),
            }
            times_ms: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(WARM_UP + requests):
                for way, ask in ways.items():
                    took_ms = await _time_ms(ask)
                    if number >= WARM_UP:
                        times_ms[way].append(took_ms)
        finally:
            await echo.stop()
    bare_ms, own_ms = (_percentile(times_ms[way], 50) for way in ("bare request", "krt"))
    name = "call of an empty algorithm, p50"
    return [
        Row(name=name, who="bare request", value=bare_ms, unit="ms"),
        Row(
            name=name, who="krt", value=own_ms, unit="ms", ratio=own_ms / bare_ms, baseline="bare request", target=CALL
        ),
    ]


async def _listing(bench: Workbench) -> Row:
    """Return how long a new client takes to list everything, at worst."""
    share = range(ALGORITHMS // RUNNERS)
    async with asyncio.timeout(PATIENCE_S):
        async with _runners(bench, {
            f"runner-{number}": "\n".join(f"def run_a{number}_{each}(n: int) -> int: return n" for each in share)
            for number in range(RUNNERS)
        }):  # fmt: skip
            times_ms = [await _time_ms(lambda: _list(bench)) for _ in range(LISTINGS)]
    name = f"list {ALGORITHMS} algorithms of {RUNNERS} runners"
    return Row(
        name=name, who="krt", value=max(times_ms), unit="ms", low=min(times_ms), high=max(times_ms), target=LISTED_MS
    )


async def _list(bench: Workbench) -> None:
    bus = await NatsBus.connect([bench.server.url], name="bench listing")
    async with Algorithms(bus) as client:
        found = len(await client.list())
    await bus.close()
    if found != ALGORITHMS:
        raise BenchError(f"{found} algorithms are listed and {ALGORITHMS} served")


async def _pings(bench: Workbench) -> list[Row]:
    """Return how late PING is answered while every slot computes, in threads and in processes."""
    rows = []
    for isolation in ("thread", "process"):
        async with _runner(bench, "busy", ADAPTER, CONCURRENCY=str(SLOTS), ISOLATION=isolation) as name:
            async with Algorithms(bench.bus) as client:
                computing = [
                    asyncio.ensure_future(client.run("compute", {"seconds": COMPUTE_S}, timeout=PATIENCE_S))
                    for _ in range(SLOTS)
                ]
                await asyncio.sleep(COMPUTE_S / 10)  # a worker process may have to start first
                times_ms = [await _time_ms(lambda: _ping(bench, name)) for _ in range(PINGS)]
                if any(call.done() for call in computing):
                    raise BenchError("the calls have ended before the questions")
                await asyncio.gather(*computing)
        rows.append(
            Row(
                name=f"PING while {SLOTS} slots compute, p99",
                who=f"krt, {isolation}",
                value=_percentile(times_ms, 99),
                unit="ms",
                low=min(times_ms),
                high=max(times_ms),
                target=PING_MS,
            )
        )
    return rows


async def _ping(bench: Workbench, runner: str) -> None:
    await bench.client.request(f"$SRV.PING.algorithms-{runner}", b"", timeout=5)


async def _time_ms(ask: Callable[[], Awaitable[object]]) -> float:
    begun_ns = time.perf_counter_ns()
    await ask()
    return (time.perf_counter_ns() - begun_ns) / 1e6


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]


# --- runners ---


@asynccontextmanager
async def _runner(bench: Workbench, name: str, code: str, **variables: str) -> AsyncIterator[str]:
    """Serve an adapter in a process of its own, and yield the name of the runner."""
    async with _runners(bench, {name: code}, **variables):
        yield name


@asynccontextmanager
async def _runners(bench: Workbench, adapters: dict[str, str], **variables: str) -> AsyncIterator[None]:
    children = []
    try:
        for name, code in adapters.items():
            folder = bench.folder / "adapters" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "runner_adapter.py").write_text(code)
            own = {f"KRT_ALGORITHMS_{key}": value for key, value in variables.items()}
            own |= {"KRT_NATS_SERVER": bench.server.url, "KRT_ADAPTER": str(folder), "KRT_RUNNER_NAME": name}
            children.append(_start(bench, name, [sys.executable, "-m", "runtime", "algorithms"], own))
        for child in children:
            await child.wait_ready()
        yield
    finally:
        await asyncio.gather(*(child.stop() for child in children))


def _start(bench: Workbench, name: str, command: list[str], variables: dict[str, str] | None = None) -> Child:
    ready, other_side = os.pipe()
    environment = clean_environment() | (variables or {}) | {"KRT_READY_FD": str(other_side)}
    return Child(command, environment, Path(bench.folder / f"{name}.log"), ready)
