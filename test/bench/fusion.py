"""A chain of three nodes fused into one process beside one with a process for each: rate, and time of one message."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from runtime.spec.node import FusedNode, HandOver, NodeSpec
from test.bench import payloads
from test.bench.latency import BLOCK, SIZE_BYTES, STAGES, WARM_UP, Caller
from test.bench.processes import Child, Stage, start_node
from test.bench.report import Row, Target
from test.bench.throughput import NODE, Contender
from test.bench.workbench import Workbench

HANDLER = "echo.py"
# How many times the messages a second of a process for each node.
TARGETS = {"unfused": Target(bound=2.5)}
# Share of the time of one message that is left.
LATENCY_TARGET = Target(bound=0.4, at_most=True)


@dataclass(frozen=True, slots=True)
class FusedChain(Contender):
    """All stages in one process, or in several that share the messages."""

    processes: int = 1

    def start_all(self, stages: Sequence[Stage], folder: Path) -> list[Child]:
        behind = tuple(
            FusedNode(
                node=stage.node,
                handler=HANDLER,
                input=stage.source,
                output=stage.target,
                configuration="",
                spec=_spec(stage, fused_with=stages[0].node),
            )
            for stage in stages[1:]
        )
        first = _spec(stages[0]).model_copy(update={"behind": behind})
        return [start_node(stages[0], folder, handler=HANDLER, spec=first) for _ in range(self.processes)]


UNFUSED = Contender("unfused", start_node, takes_envelopes=True)
CONTENDERS = (FusedChain(NODE.name, start_node, takes_envelopes=True), UNFUSED)
# Three processes have more cores than one: here the fused chain has a process for each core, too.
ON_ALL_CORES = (FusedChain(NODE.name, start_node, takes_envelopes=True, processes=os.cpu_count() or 1), UNFUSED)


async def measure_latency(bench: Workbench, requests: int) -> list[Row]:
    """Send requests through both chains, one in flight, block by block in turn."""
    request = functools.partial(payloads.envelope, payloads.json_of_size(SIZE_BYTES))
    times_ms: dict[str, list[float]] = {contender.name: [] for contender in CONTENDERS}
    async with bench.chain(STAGES) as fused, bench.chain(STAGES) as unfused:
        chains = list(zip(CONTENDERS, (fused, unfused), strict=True))
        children = [child for contender, stages in chains for child in contender.start_all(stages, bench.folder)]
        callers = {contender.name: Caller(bench, stages[0].source, request) for contender, stages in chains}
        try:
            for child in children:
                await child.wait_ready()
            for caller in callers.values():
                await caller.start()
                await caller.call(WARM_UP)
            for _ in range(max(1, requests // BLOCK)):
                for name, caller in callers.items():
                    times_ms[name] += await caller.call(BLOCK)
        finally:
            for child in children:
                await child.stop()
    return _latency_rows({name: median(times) for name, times in times_ms.items()})


def _latency_rows(p50_ms: dict[str, float]) -> list[Row]:
    unfused = UNFUSED.name
    title = "latency, three fused, p50"
    return [
        Row(name=title, who=unfused, value=p50_ms[unfused], unit="ms"),
        Row(
            name=title,
            who=NODE.name,
            value=p50_ms[NODE.name],
            unit="ms",
            ratio=p50_ms[NODE.name] / p50_ms[unfused],
            baseline=unfused,
            target=LATENCY_TARGET,
        ),
    ]


def _spec(stage: Stage, fused_with: str = "") -> NodeSpec:
    """Return what the plan of `fuse` tells a node of the chain."""
    return NodeSpec(
        durable=stage.durable,
        exit_channel="main" if stage.is_last else None,
        hand_over=HandOver() if stage.is_last else HandOver(subjects=(stage.target,)),
        fused_with=fused_with,
    )
