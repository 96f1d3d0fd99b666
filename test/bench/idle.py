"""What a node costs before its first message: the time until it is ready, and its memory while it waits."""

import asyncio
from statistics import median

from test.bench.processes import start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

# Starts that are timed, and seconds that a ready process is left alone before its memory is read.
STARTS = 5
SETTLE_S = 2.0
START_TARGET = Target(bound=1.5, at_most=True)
MEMORY_TARGET = Target(bound=60, at_most=True)
MB = 1_000_000


async def measure_start(bench: Workbench) -> list[Row]:
    """Return the median time from the start of the process to its ready line; the server is up already."""
    times_s = []
    async with bench.chain(1) as stages:
        for _ in range(STARTS):
            child = start_node(stages[0], bench.folder)
            try:
                times_s.append(await child.wait_ready())
            finally:
                await child.stop()
    return [
        Row(
            name="start to ready",
            who="node",
            value=median(times_s),
            unit="s",
            low=min(times_s),
            high=max(times_s),
            target=START_TARGET,
        )
    ]


async def measure_memory(bench: Workbench) -> list[Row]:
    """Return the memory of a ready node that has seen no message."""
    async with bench.chain(1) as stages:
        child = start_node(stages[0], bench.folder)
        try:
            await child.wait_ready()
            await asyncio.sleep(SETTLE_S)
            resident, proportional = child.resident_bytes() / MB, child.proportional_bytes() / MB
        finally:
            await child.stop()
    return [
        Row(name="idle memory, resident", who="node", value=resident, unit="MB", target=MEMORY_TARGET),
        Row(name="idle memory, proportional", who="node", value=proportional, unit="MB"),
    ]
