"""Messages per second through one stage or a chain: a stream is filled, then the contenders empty it one by one."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from test.bench import payloads
from test.bench.processes import Child, Stage, start_node, start_peer
from test.bench.report import Row, Target
from test.bench.workbench import Flow, Workbench

log = logging.getLogger(__name__)

# Messages of the first run of a contender, which only says how many the next ones need.
PROBE = 1_000
# Bounds on the messages of a run: enough to measure, and no more than 1 GiB.
MIN_MESSAGES = 2_000
MAX_MESSAGES = 400_000
MAX_BYTES = 1024**3
# What one node has to reach with 200 B.
TARGETS = {"faststream": Target(bound=10), "idiomatic": Target(bound=1.7), "lean": Target(bound=0.6)}

Start = Callable[[Stage, Path], Child]


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured: how it is started, and whether its messages are envelopes."""

    name: str
    start: Start
    takes_envelopes: bool = False

    def start_all(self, stages: Sequence[Stage], folder: Path) -> list[Child]:
        """Start what runs the stages of a chain."""
        return [self.start(stage, folder) for stage in stages]


NODE = Contender("node", start_node, takes_envelopes=True)
PEERS = (
    Contender("faststream", functools.partial(start_peer, "faststream_loop")),
    Contender("idiomatic", functools.partial(start_peer, "idiomatic")),
    Contender("lean", functools.partial(start_peer, "lean")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One comparison: how many stages, which payload, how long each measurement shall take and how often.

    targets: how many times a peer's rate our node has to reach.
    """

    title: str
    stages: int
    size_bytes: int
    seconds: float
    rounds: int
    contenders: tuple[Contender, ...] = (NODE, *PEERS)
    targets: Mapping[str, Target] = field(default_factory=dict)


async def measure(bench: Workbench, plan: Plan) -> list[Row]:
    """Run every contender once per round, in turn, and compare the medians."""
    flows: dict[str, list[Flow]] = {contender.name: [] for contender in plan.contenders}
    rates = {}
    for contender in plan.contenders:
        rates[contender.name] = (await run_once(bench, contender, plan, PROBE)).rate
    for number in range(plan.rounds):
        for contender in plan.contenders:
            messages = _messages(rates[contender.name], plan)
            flow = await run_once(bench, contender, plan, messages)
            log.info("%s, %s, round %d: %.0f msg/s", plan.title, contender.name, number + 1, flow.rate)
            flows[contender.name].append(flow)
            rates[contender.name] = flow.rate
    return _rows(plan, flows)


async def run_once(bench: Workbench, contender: Contender, plan: Plan, messages: int) -> Flow:
    """Fill a stream, let the contender empty it, and return how fast it did."""
    value = payloads.json_of_size(plan.size_bytes)
    body = payloads.envelope(value) if contender.takes_envelopes else payloads.plain(value)
    async with bench.chain(plan.stages) as stages:
        await bench.preload(stages[0], body, messages)
        children = contender.start_all(stages, bench.folder)
        try:
            return await bench.follow(stages, children, messages)
        finally:
            for child in children:
                await child.stop()


def _messages(rate: float, plan: Plan) -> int:
    most = min(MAX_MESSAGES, MAX_BYTES // (plan.size_bytes * plan.stages))
    return max(MIN_MESSAGES, min(most, round(rate * plan.seconds)))


def _rows(plan: Plan, flows: dict[str, list[Flow]]) -> list[Row]:
    """Return a row for each peer, then one of our node for each peer that it is compared with."""
    values = {name: _row(plan, name, runs) for name, runs in flows.items()}
    node = values.pop(NODE.name, None)
    if node is None:
        return list(values.values())
    compared = [
        Row(
            name=plan.title,
            who=NODE.name,
            value=node.value,
            unit=node.unit,
            low=node.low,
            high=node.high,
            cpu_us=node.cpu_us,
            ratio=node.value / peer.value,
            baseline=name,
            target=plan.targets.get(name),
        )
        for name, peer in values.items()
    ]
    return [*values.values(), *(compared or [node])]


def _row(plan: Plan, name: str, runs: list[Flow]) -> Row:
    rates = [run.rate for run in runs]
    cpu = [run.cpu_us for run in runs if run.cpu_us is not None]
    return Row(
        name=plan.title,
        who=name,
        value=median(rates),
        unit="msg/s",
        low=min(rates),
        high=max(rates),
        cpu_us=min(cpu, default=None),
    )
