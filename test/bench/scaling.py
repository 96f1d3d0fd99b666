"""What replicas and worker processes bring a handler that computes, by their number.

No more can come of it than the machine has cores, and nats-server and the nodes themselves need some of these.
"""

from statistics import median

from runtime.spec.node import NodeSpec
from test.bench import payloads
from test.bench.processes import Child, Stage, start_node
from test.bench.report import Row
from test.bench.workbench import Workbench

NAME = "handler of 1 ms"
HANDLER = "compute.py"
SIZE_BYTES = 200
NUMBERS = (1, 2, 4)
# Messages for each second that a measurement is to take. A few thousand at least: of fewer, what the replicas have at
# hand at the end decides.
ABOUT = 600
LEAST = 2_000
# How a node gets its processes: several nodes, or workers of one.
REPLICAS, WORKERS = "replicas", "workers"


async def measure(bench: Workbench, seconds: float, rounds: int) -> list[Row]:
    """Send so many messages to each number of either, round by round."""
    rates: dict[tuple[str, int], list[float]] = {(way, number): [] for way in (REPLICAS, WORKERS) for number in NUMBERS}
    for _ in range(rounds):
        for (way, number), measured in rates.items():
            measured.append(await _rate(bench, way, number, messages=max(LEAST, int(ABOUT * seconds))))
    return rows(rates)


def rows(rates: dict[tuple[str, int], list[float]]) -> list[Row]:
    """Return a row for each, compared with one replica, whose handler runs in a thread."""
    baseline = median(rates[REPLICAS, 1])
    return [
        Row(
            name=NAME,
            who=f"{way}: {number}",
            value=median(measured),
            unit="msg/s",
            low=min(measured),
            high=max(measured),
            ratio=median(measured) / baseline,
            baseline=f"{REPLICAS}: 1",
        )
        for (way, number), measured in rates.items()
    ]


async def _rate(bench: Workbench, way: str, number: int, messages: int) -> float:
    """Return the messages a second of processes that are all there when the messages come."""
    body = payloads.envelope(payloads.json_of_size(SIZE_BYTES))
    async with bench.chain(1) as [stage]:
        children = _start(bench, stage, way, number)
        try:
            for child in children:
                await child.wait_ready()
            await bench.preload(stage, body, messages)
            return (await bench.follow([stage], children, messages)).rate
        finally:
            for child in children:
                await child.stop()


def _start(bench: Workbench, stage: Stage, way: str, number: int) -> list[Child]:
    processes = number if way == REPLICAS else 1
    spec = NodeSpec(durable=stage.durable, exit_channel="main", workers=number if way == WORKERS else None)
    return [start_node(stage, bench.folder, handler=HANDLER, spec=spec) for _ in range(processes)]
