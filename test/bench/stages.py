"""Where the processor time of a message goes: a node that is looked at every few milliseconds, see `sampler.py`."""

import json
from collections import Counter
from statistics import median

from test.bench import payloads
from test.bench.processes import BenchError, start_node
from test.bench.report import Row
from test.bench.workbench import Workbench

TITLE = "profile, 200 B"
SIZE_BYTES = 200
# Messages of a round: some seconds of processor time, which are about a thousand looks.
MESSAGES = 60_000
PROGRAM = "test.bench.peers.sampled_node"
# What a message passes, in its order. `loop` is all else: the event loop, what it waits for in the kernel, other tasks.
STAGES = ("read", "take", "run", "decode", "handler", "encode", "publish", "send", "confirm", "settle", "loop")


async def measure(bench: Workbench, rounds: int) -> list[Row]:
    """Return the microseconds of a message in each stage, and in all of them."""
    return rows([await _profile(bench) for _ in range(rounds)])


def rows(profiles: list[tuple[Counter[str], float]]) -> list[Row]:
    """Return the table of some rounds: the looks that were counted by stage, and processor time per message in µs."""
    nodes_us = [cpu_us for _, cpu_us in profiles]
    stages_us = {stage: [counts[stage] / counts.total() * us for counts, us in profiles] for stage in STAGES}
    return [
        *(_row(stage, times_us, median(times_us) / median(nodes_us)) for stage, times_us in stages_us.items()),
        _row("node", nodes_us),
    ]


async def _profile(bench: Workbench) -> tuple[Counter[str], float]:
    body = payloads.envelope(payloads.json_of_size(SIZE_BYTES))
    async with bench.chain(1) as stages:
        await bench.preload(stages[0], body, MESSAGES)
        child = start_node(stages[0], bench.folder, program=PROGRAM)
        try:
            flow = await bench.follow(stages, [child], MESSAGES)
        finally:
            await child.stop()
    if flow.cpu_us is None:
        raise BenchError("the node was through before it was looked at")
    return Counter(json.loads(child.log_tail().splitlines()[-1])), flow.cpu_us


def _row(who: str, times_us: list[float], share: float | None = None) -> Row:
    return Row(
        name=TITLE,
        who=who,
        value=median(times_us),
        unit="µs cpu",
        low=min(times_us),
        high=max(times_us),
        ratio=share,
        baseline="node" if share is not None else "",
    )
