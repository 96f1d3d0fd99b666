"""What a message without a failure pays for retries, dead letters and states."""

import functools
import logging
from statistics import median

from test.bench.processes import BenchError, start_node
from test.bench.report import Row, Target
from test.bench.throughput import NODE, Contender, Plan, run_once
from test.bench.workbench import Workbench

log = logging.getLogger(__name__)

# Messages of one measurement: about a second of processor time, which is told in hundredths of a second.
MESSAGES = 30_000
TARGET = Target(bound=1.05, at_most=True)
FIRST_TRY = Contender(
    "node, first try", functools.partial(start_node, program="test.bench.peers.first_try"), takes_envelopes=True
)
# Seconds and rounds of a plan are for measurements that find out how many messages they need.
PLAN = Plan(title="machinery, 200 B", stages=1, size_bytes=200, seconds=1.0, rounds=1, contenders=(NODE, FIRST_TRY))


async def measure(bench: Workbench, pairs: int) -> list[Row]:
    """Return the processor time of both, and the median of the pairs' ratios: neighbours in time are alike in noise."""
    times_us: list[tuple[float, float]] = []
    for number in range(pairs):
        order = (NODE, FIRST_TRY) if number % 2 else (FIRST_TRY, NODE)
        taken = {contender.name: await _cpu_us(bench, contender) for contender in order}
        times_us.append((taken[NODE.name], taken[FIRST_TRY.name]))
        log.info("%s, pair %d: %.1f and %.1f µs", PLAN.title, number + 1, *times_us[-1])
    ratio = median(node / first_try for node, first_try in times_us)
    node_us, first_try_us = zip(*times_us, strict=True)
    return [
        _row(FIRST_TRY.name, first_try_us),
        _row(NODE.name, node_us, ratio=ratio, baseline=FIRST_TRY.name, target=TARGET),
    ]


async def _cpu_us(bench: Workbench, contender: Contender) -> float:
    flow = await run_once(bench, contender, PLAN, MESSAGES)
    if flow.cpu_us is None:
        raise BenchError(f"{contender.name} was through before it was looked at")
    return flow.cpu_us


def _row(
    who: str, times_us: tuple[float, ...], ratio: float | None = None, baseline: str = "", target: Target | None = None
) -> Row:
    return Row(
        name=PLAN.title,
        who=who,
        value=median(times_us),
        unit="µs cpu",
        low=min(times_us),
        high=max(times_us),
        ratio=ratio,
        baseline=baseline,
        target=target,
    )
