"""What batches gain: a network in numpy that gets one message, or many, through a node and behind HTTP.

Behind HTTP it is compared with the same network behind BentoML's adaptive batching.
"""

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
# Seconds in which adaptive batching may find out how long the network takes.
WARM_UP_S = 2.0
# Messages a second of the contenders, roughly: how many one measurement needs.
ABOUT = {"one by one": 300, "batches": 2_000}


async def measure(bench: Workbench, seconds: float, rounds: int) -> list[Row]:
    """Empty a stream with either handler, round by round; then as many requests as go through in `seconds`."""
    rates: dict[str, list[float]] = {who: [] for who in ABOUT}
    for _ in range(rounds):
        for who, measured in rates.items():
            measured.append(await _drain(bench, who, int(ABOUT[who] * seconds)))
    values = {who: median(measured) for who, measured in rates.items()}
    rows = [
        Row(name=NAME, who=who, value=values[who], unit="msg/s", low=min(measured), high=max(measured))
        for who, measured in rates.items()
    ]
    gain = Row(
        name=NAME,
        who="batches",
        value=values["batches"],
        unit="msg/s",
        ratio=values["batches"] / values["one by one"],
        baseline="one by one",
        target=GAIN,
    )
    return [*rows, gain, *await _measure_http(bench, seconds)]


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


async def _measure_http(bench: Workbench, seconds: float) -> list[Row]:
    rates = {}
    for who in ABOUT:
        async with (
            bench.chain(1) as [stage],
            running(_start(stage, bench, who)),
            driver(bench, stage, "http") as port,
        ):
            rates[who] = await _warm_rate(port, FEATURES, seconds)
    rows = [Row(name=HTTP_NAME, who=who, value=value, unit="req/s") for who, value in rates.items()]
    try:
        python = await bentoml.installed()
    except bentoml.NotInstalledError as error:
        return [*rows, Row.missing(HTTP_NAME, bentoml.NAME, str(error))]
    async with bentoml.served(bench, python, "bentoml_network:Scores") as port:
        theirs = await _warm_rate(port, {"features": [FEATURES["features"]]}, seconds)
    ours = rates["batches"]
    return [
        *rows,
        Row(name=HTTP_NAME, who=bentoml.NAME, value=theirs, unit="req/s"),
        Row(name=HTTP_NAME, who="batches", value=ours, unit="req/s", ratio=ours / theirs, baseline=bentoml.NAME),
    ]


async def _warm_rate(port: int, request: dict[str, object], seconds: float) -> float:
    body = orjson.dumps(request)
    await rate(port, body, WARM_UP_S)
    return await rate(port, body, seconds)
