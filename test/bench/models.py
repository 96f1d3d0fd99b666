"""What a call of 100 models costs beyond the slowest model's own time, beside a plain gRPC fan-out of the same values.

Hosts share four processes, which only a benchmark may do; their models are a process each. The servers of gRPC share
four processes with their models, a thread for each. Everything shares the machine with the caller.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc

from runtime.bus.nats import NatsBus
from runtime.models import DynamicSubclassModelConcurrentRunner, ModelPredictResult, ModelRunner, from_variant
from runtime.models.call_requests import CallRequests
from runtime.proto.models import CallRequest, CallResponse
from test.bench.driver_process import BLOCK
from test.bench.peers.model_servicers import METHOD, SERVICE
from test.bench.processes import HANDLERS, ROOT, BenchError, Child, clean_environment
from test.bench.report import Row, Target
from test.bench.workbench import Workbench
from test.support.ports import free_port

MODELS = 100
PROCESSES = 4
CLUSTER = "bench"
BASE = "test.bench.peers.model_base.ModelBase"
CODE = HANDLERS / "model"
# Seconds of the slowest model; the others take 1, 2 … 99 hundredths of it. At once: all of them take none.
SPREAD_S, AT_ONCE_S = 0.5, 0.0
WARM_UP = 20
# Models that do not answer within the deadline; that, and how long they take, in seconds.
HUNG = 10
DEADLINE_S = 0.1
STALL_S = 0.25
# Calls in a row after which nothing may be left.
CALLS_IN_A_ROW = 1_000
# Seconds until hosts of so many models are up.
UP_TIMEOUT_S = 120.0
OVERHEAD = {"p50": Target(bound=10, at_most=True), "p99": Target(bound=50, at_most=True)}
LATEST = Target(bound=120, at_most=True)
NOTHING = Target(bound=0, at_most=True)
# What the allocator may keep of a thousand calls, in MB.
MEMORY = Target(bound=2, at_most=True)
MB = 1_000_000

# Calls all models with a payload and returns what each of them has answered.
CallAll = Callable[[Mapping[str, Any]], Awaitable[list[Any]]]


@dataclass(slots=True)
class Way:
    """One way to call all models, the processes that answer, and what was measured of it."""

    call_all: CallAll
    children: Sequence[Child]
    overheads_ms: list[float] = field(default_factory=list)
    used_s: float = 0.0

    def cpu_s(self) -> float:
        """Return the processor time used so far, the caller's included."""
        return time.process_time() + sum(child.family_cpu_s() for child in self.children)

    @property
    def cpu_us(self) -> float:
        """Processor time for each model of a call."""
        return self.used_s / len(self.overheads_ms) / MODELS * 1e6


async def measure(bench: Workbench, requests: int) -> list[Row]:
    """Call all models, `requests` times at once, a fifth of that with times that differ, both ways in turn."""
    async with hosts(bench) as (runner, host_children):
        async with servers(bench.folder) as (over_grpc, server_children):
            rows = []
            for how, work_s, calls in (
                ("all at once", AT_ONCE_S, requests),
                (f"5 to {SPREAD_S * 1000:.0f} ms each", SPREAD_S, requests // 5),
            ):
                ways = {"grpcio": Way(over_grpc, server_children), "krt": Way(_over_nats(runner), host_children)}
                await _take_turns(ways, work_s, calls)
                rows += _rows(how, ways)
        rows.append(await _latest(runner, requests // 5))
        rows += await _left_behind(runner)
    return rows


# --- both ways to call ---


@asynccontextmanager
async def hosts(bench: Workbench) -> AsyncIterator[tuple[DynamicSubclassModelConcurrentRunner, list[Child]]]:
    """Run a host for each model; yield a coordinator that has set all of them up, and their processes."""
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=60,
        crunch_id=CLUSTER,
        servers=[bench.server.url],
        base_classname=BASE,
        max_consecutive_failures=0,
        max_consecutive_timeouts=0,
    )
    all_up = asyncio.Event()

    def on_join(_: ModelRunner) -> None:
        if len(runner.model_cluster.models_run) == MODELS:
            all_up.set()

    runner.model_cluster.on_join = on_join
    async with AsyncExitStack() as stack:
        children = []
        for number in range(PROCESSES):
            models = {
                f"m{model}": {"BENCH_PACE": str(pace), "BENCH_STALL_S": str(STALL_S if model < HUNG else 0)}
                for model, pace in _share(number).items()
            }
            told = {"server": bench.server.url, "cluster": CLUSTER, "code": str(CODE), "models": models}
            ready, other_side = os.pipe()
            children.append(_start("model_hosts", told, bench.folder, number, ready, other_side))
            stack.push_async_callback(children[-1].stop)
        await stack.enter_async_context(runner)
        try:
            async with asyncio.timeout(UP_TIMEOUT_S):
                await all_up.wait()
        except TimeoutError:
            count = len(runner.model_cluster.models_run)
            raise BenchError(f"{count} of {MODELS} models are up after {UP_TIMEOUT_S:g} s") from None
        yield runner, children


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[CallAll, list[Child]]]:
    """Run a server of gRPC for each model; yield the call of all of them, and their processes."""
    async with AsyncExitStack() as stack:
        ports, children = [], []
        for number in range(PROCESSES):
            paces = {free_port(): pace for pace in _share(number).values()}
            ready, other_side = os.pipe()
            told = {"code": str(CODE), "paces": paces, "ready_fd": other_side}
            child = _start("model_servicers", told, folder, number, ready, other_side)
            stack.push_async_callback(child.stop)
            await child.wait_ready()
            children.append(child)
            ports += list(paces)
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}")) for port in ports]
        methods: list[Any] = [
            channel.unary_unary(
                f"/{SERVICE}/{METHOD}",
                request_serializer=CallRequest.SerializeToString,
                response_deserializer=CallResponse.FromString,
            )
            for channel in channels
        ]

        async def call_all(payload: Mapping[str, Any]) -> list[Any]:
            request = CallRequest.FromString(CallRequests("predict", ([payload], ())).body_for(None))
            answers = await asyncio.gather(*(method(request, timeout=60) for method in methods))
            return [from_variant(answer.methodResponse) for answer in answers]

        yield call_all, children


def _share(number: int) -> dict[int, float]:
    """Return the models of one process with their paces, 1 for the slowest."""
    return {model: (model + 1) / MODELS for model in range(number, MODELS, PROCESSES)}


def _start(peer: str, told: Mapping[str, Any], folder: Path, number: int, ready: int, other_side: int) -> Child:
    command = [sys.executable, "-m", f"test.bench.peers.{peer}", json.dumps(told)]
    # A model finds its base class there.
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "KRT_READY_FD": str(other_side)}
    return Child(command, environment, folder / f"{peer}-{number}.log", ready)


def _over_nats(runner: DynamicSubclassModelConcurrentRunner) -> CallAll:
    async def call_all(payload: Mapping[str, Any]) -> list[Any]:
        results = await runner.call("predict", args=[payload])
        return [result.result for result in results.values()]

    return call_all


# --- overhead ---


async def _take_turns(ways: Mapping[str, Way], work_s: float, calls: int) -> None:
    """Measure by how many milliseconds each call takes longer than its slowest model, block by block in turn."""
    payload = {"falcon_location": 21.18, "dove_location": 19.16, "time": 230.96, "falcon_id": 1, "work_s": work_s}
    for way in ways.values():
        for _ in range(WARM_UP):
            await way.call_all({**payload, "work_s": 0})
    block = min(BLOCK, calls)
    for _ in range(calls // block):
        for way in ways.values():
            before_s = way.cpu_s()
            way.overheads_ms += [await _overhead_ms(way.call_all, payload) for _ in range(block)]
            way.used_s += way.cpu_s() - before_s


async def _overhead_ms(call_all: CallAll, payload: Mapping[str, Any]) -> float:
    started_s = time.perf_counter()
    answers = await call_all(payload)
    elapsed_s = time.perf_counter() - started_s
    answered = [answer for answer in answers if isinstance(answer, dict)]
    if len(answered) != MODELS:
        raise BenchError(f"{len(answered)} of {MODELS} models have answered")
    slowest_s: float = max(answer["took_s"] for answer in answered)
    return (elapsed_s - slowest_s) * 1e3


def _rows(how: str, ways: Mapping[str, Way]) -> list[Row]:
    rows = []
    for point, cut in (("p50", 49), ("p99", 98)):
        for who, way in ways.items():
            target = OVERHEAD[point] if who == "krt" else None
            value = quantiles(way.overheads_ms, n=100)[cut]
            name = f"{MODELS} models, {how}, {point}"
            rows.append(Row(name=name, who=who, value=value, unit="ms", cpu_us=way.cpu_us, target=target))
    return rows


# --- deadline ---


async def _latest(runner: DynamicSubclassModelConcurrentRunner, calls: int) -> Row:
    """Return how long the longest of `calls` took in which models do not answer."""
    times_ms = []
    for _ in range(calls):
        started_s = time.perf_counter()
        results = await runner.call("stall", timeout=DEADLINE_S)
        times_ms.append((time.perf_counter() - started_s) * 1e3)
        late = sum(result.status is ModelPredictResult.Status.TIMEOUT for result in results.values())
        if late < HUNG:
            raise BenchError(f"{late} models have missed the deadline, and {HUNG} were hung")
        await _recover(runner)
    name = f"deadline {DEADLINE_S * 1000:.0f} ms, {HUNG} of {MODELS} hung, longest"
    return Row(
        name=name, who="krt", value=max(times_ms), unit="ms", low=min(times_ms), high=max(times_ms), target=LATEST
    )


async def _recover(runner: DynamicSubclassModelConcurrentRunner) -> None:
    """Call all models until each has answered, so that none of them is left out of the next call."""
    results: Mapping[Any, ModelPredictResult] = {}
    while not results or any(result.detail for result in results.values()):
        results = await runner.call("predict", args=[{"dove_location": 0.0, "work_s": 0.0}])


# --- what is left ---


async def _left_behind(runner: DynamicSubclassModelConcurrentRunner) -> list[Row]:
    """Return what a thousand calls in a row have left behind in the caller's process."""
    call_all = _over_nats(runner)
    bus = runner._link.bus
    assert isinstance(bus, NatsBus)
    subscribed = bus._connection.client._subs

    def look() -> tuple[float, int, int]:
        gc.collect()
        resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident_bytes / MB, len(asyncio.all_tasks()), len(subscribed)

    before = look()
    for _ in range(CALLS_IN_A_ROW):
        await call_all({"dove_location": 0.0, "work_s": 0.0})
    after = look()
    units = (("memory", "MB", MEMORY), ("tasks", "", NOTHING), ("subscriptions", "", NOTHING))
    return [
        Row(
            name=f"{CALLS_IN_A_ROW:,} calls leave, {what}",
            who="krt",
            value=now - then,
            unit=unit,
            target=target,
        )
        for then, now, (what, unit, target) in zip(before, after, units, strict=True)
    ]
