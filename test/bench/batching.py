"""What batches gain: a network in numpy that gets one message, or many, through a node and behind HTTP.

Behind HTTP it is compared with the same network behind BentoML's adaptive batching.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

import orjson

from runtime.spec.batching import BatchingSpec
from runtime.spec.node import NodeSpec
from test.bench import bentoml, payloads
from test.bench.driver_process import driver, running
from test.bench.http import CONNECTIONS, rate
from test.bench.processes import Child, Stage, start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

NAME = "network in numpy"
HTTP_NAME = f"{NAME}, HTTP, {CONNECTIONS} connections"
FEATURES: dict[str, object] = {"features": [round(number / 64, 3) for number in range(64)]}
BATCHING = BatchingSpec(max_messages=64, wait_s=0.005)
GAIN = Target(bound=3.0)
# Messages a second of the contenders, roughly: how many one measurement needs.
ABOUT = {"one by one": 300, "batches": 2_000}


async def measure(bench: Workbench, seconds: float, rounds: int) -> list[Row]:
    """Empty a stream with either handler, then send as many requests as go through in `seconds`, round by round."""
    rates: dict[str, list[float]] = {who: [] for who in ABOUT}
    for _ in range(rounds):
        for who, measured in rates.items():
            measured.append(await _drain(bench, who, int(ABOUT[who] * seconds)))
    return [*_rows(NAME, "msg/s", rates), *await _measure_http(bench, seconds, rounds)]


async def _drain(bench: Workbench, who: str, messages: int) -> float:
    """Return the messages a second of a full stream."""
    async with bench.chain(1) as stages:
        await bench.preload(stages[0], payloads.envelope(FEATURES), messages)
        child = _start(stages[0], bench, who)
        async with running(child):
            return (await bench.follow(stages, [child], messages)).rate


def _start(stage: Stage, bench: Workbench, who: str) -> Child:
    batched = who == "batches"
    spec = NodeSpec(durable=stage.durable, exit_channel="main", batching=BATCHING if batched else None)
    return start_node(stage, bench.folder, handler="network.py" if batched else "one_by_one.py", spec=spec)


async def _measure_http(bench: Workbench, seconds: float, rounds: int) -> list[Row]:
    async with AsyncExitStack() as stack:
        calls = {who: (await stack.enter_async_context(_served(bench, who)), FEATURES) for who in ABOUT}
        missing = []
        try:
            python = await bentoml.installed()
        except bentoml.NotInstalledError as error:
            missing.append(Row.missing(HTTP_NAME, bentoml.NAME, str(error)))
        else:
            port = await stack.enter_async_context(bentoml.served(bench, python, "bentoml_network:Scores"))
            calls[bentoml.NAME] = (port, {"features": [FEATURES["features"]]})
        rates: dict[str, list[float]] = {who: [] for who in calls}
        for number in range(rounds + 1):
            for who, (port, request) in calls.items():
                measured = await rate(port, orjson.dumps(request), seconds)
                if number:  # in the first, adaptive batching finds out how long the network takes
                    rates[who].append(measured)
    return [*_rows(HTTP_NAME, "req/s", rates), *missing]


@asynccontextmanager
async def _served(bench: Workbench, who: str) -> AsyncIterator[int]:
    """Run a node behind HTTP; yields the port."""
    async with bench.chain(1) as [stage], running(_start(stage, bench, who)), driver(bench, stage, "http") as port:
        yield port


def _rows(name: str, unit: str, rates: dict[str, list[float]]) -> list[Row]:
    values = {who: median(measured) for who, measured in rates.items()}
    rows = [
        Row(name=name, who=who, value=values[who], unit=unit, low=min(measured), high=max(measured))
        for who, measured in rates.items()
    ]
    compared = [
        Row(
            name=name,
            who="batches",
            value=values["batches"],
            unit=unit,
            ratio=values["batches"] / value,
            baseline=who,
            target=GAIN if who == "one by one" else None,
        )
        for who, value in values.items()
        if who != "batches"
    ]
    return [*rows, *compared]
