"""Many messages through one node: does it get slower, and does it keep growing?"""

from itertools import pairwise
from statistics import median

from test.bench import payloads
from test.bench.processes import start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

SIZE_BYTES = 200
SLICES = 10
# The last slice against the median of all, and the memory at the end against that after the first slice.
RATE_TARGET = Target(bound=0.9)
MEMORY_TARGET = Target(bound=1.1, at_most=True)
MB = 1_000_000


async def measure(bench: Workbench, messages: int) -> list[Row]:
    """Return throughput and memory of each slice, and the two comparisons."""
    size = messages // SLICES
    async with bench.chain(1) as stages:
        stage = stages[0]
        await bench.preload(stage, payloads.envelope(payloads.json_of_size(SIZE_BYTES)), messages)
        child = start_node(stage, bench.folder)
        memory_mb: list[float] = []
        try:
            async for outputs in bench.count_outputs(stage, [child], messages):
                while len(memory_mb) < outputs // size:
                    memory_mb.append(child.resident_bytes() / MB)
        finally:
            await child.stop()
        # The inputs fill the stream up to `messages`; behind them lies one output for each.
        edges_s = [await bench.stored_s(stage.stream, messages + 1)]
        for number in range(1, SLICES + 1):
            edges_s.append(await bench.stored_s(stage.stream, messages + number * size))
    rates = [size / (end - begin) for begin, end in pairwise(edges_s)]
    return [*_slices(rates, memory_mb), *_comparisons(rates, memory_mb)]


def _slices(rates: list[float], memory_mb: list[float]) -> list[Row]:
    rows = []
    for number, (rate, memory) in enumerate(zip(rates, memory_mb, strict=True), start=1):
        name = f"soak, slice {number} of {SLICES}"
        rows.append(Row(name=name, who="node", value=rate, unit="msg/s"))
        rows.append(Row(name=name, who="node", value=memory, unit="MB"))
    return rows


def _comparisons(rates: list[float], memory_mb: list[float]) -> list[Row]:
    return [
        Row(
            name="soak, last slice",
            who="node",
            value=rates[-1],
            unit="msg/s",
            ratio=rates[-1] / median(rates),
            baseline="median slice",
            target=RATE_TARGET,
        ),
        Row(
            name="soak, memory at the end",
            who="node",
            value=memory_mb[-1],
            unit="MB",
            ratio=memory_mb[-1] / memory_mb[0],
            baseline="first slice",
            target=MEMORY_TARGET,
        ),
    ]
