"""Time of one message through three stages and back, with one message in flight, seen from the caller's process."""

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles

from nats.aio.msg import Msg

from test.bench import payloads
from test.bench.processes import BenchError, Child, Stage, start_node, start_peer
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

STAGES = 3
SIZE_BYTES = 200
WARM_UP = 50
# Messages that one chain gets before it is the other's turn, so that both see the same machine.
BLOCK = 50
ANSWER_TIMEOUT_S = 10.0
TARGETS = {"p50": Target(bound=2, at_most=True)}

# Makes a request's bytes from the inbox that its answer shall come to.
Request = Callable[[str], bytes]


class Caller:
    """Sends requests one after the other and waits for each answer."""

    def __init__(self, bench: Workbench, entrypoint: str, request: Request) -> None:
        self._client = bench.client
        self._entrypoint = entrypoint
        self._request = request
        self._inbox = f"{bench.client.new_inbox()}."
        self._number = 0
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await self._client.subscribe(f"{self._inbox}*", cb=self._on_answer)
        await self._client.flush()

    async def call(self, times: int) -> list[float]:
        """Return the milliseconds of each request, from its first byte to its answer."""
        return [await self._call_once() for _ in range(times)]

    async def _call_once(self) -> float:
        self._number += 1
        self._answered = asyncio.get_running_loop().create_future()
        data = self._request(f"{self._inbox}{self._number}")
        started_s = time.perf_counter()
        await self._client.publish(self._entrypoint, data)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._answered
        except TimeoutError:
            raise BenchError(f"no answer to request {self._number} on {self._entrypoint}") from None
        return (time.perf_counter() - started_s) * 1e3

    async def _on_answer(self, answer: Msg) -> None:
        # Every request has an inbox of its own: a second answer to an earlier one must not pass for this one's.
        if answer.subject == f"{self._inbox}{self._number}" and not self._answered.done():
            self._answered.set_result(None)


@dataclass(slots=True)
class _Chain:
    who: str
    caller: Caller
    children: list[Child]
    times_ms: list[float]


async def measure(bench: Workbench, requests: int) -> list[Row]:
    """Send `requests` through our nodes and as many through plain hops, block by block in turn."""
    value = payloads.json_of_size(SIZE_BYTES)
    body = payloads.plain(value)
    async with bench.chain(STAGES) as ours, bench.chain(STAGES, pulled=False) as plain:
        chains = [
            _chain(bench, "plain hops", plain, lambda inbox: inbox.encode() + b"\n" + body),
            _chain(bench, "node", ours, functools.partial(payloads.envelope, value)),
        ]
        try:
            for chain in chains:
                await _warm_up(chain)
            for _ in range(max(1, requests // BLOCK)):
                for chain in chains:
                    chain.times_ms.extend(await chain.caller.call(BLOCK))
        finally:
            for child in [child for chain in chains for child in chain.children]:
                await child.stop()
    return _rows(chains)


def _chain(bench: Workbench, who: str, stages: list[Stage], request: Request) -> _Chain:
    if who == "node":
        children = [start_node(stage, bench.folder) for stage in stages]
    else:
        children = [start_peer("plain_hops", stage, bench.folder) for stage in stages]
    return _Chain(who, Caller(bench, stages[0].source, request), children, [])


async def _warm_up(chain: _Chain) -> None:
    for child in chain.children:
        await child.wait_ready()
    await chain.caller.start()
    await chain.caller.call(WARM_UP)


def _rows(chains: list[_Chain]) -> list[Row]:
    plain, ours = (_percentiles(chain.times_ms) for chain in chains)
    rows = []
    for point, plain_ms in plain.items():
        name = f"latency, three stages, {point}"
        rows.append(Row(name=name, who="plain hops", value=plain_ms, unit="ms"))
        rows.append(
            Row(
                name=name,
                who="node",
                value=ours[point],
                unit="ms",
                ratio=ours[point] / plain_ms,
                baseline="plain hops",
                target=TARGETS.get(point),
            )
        )
    return rows


def _percentiles(times_ms: list[float]) -> dict[str, float]:
    cuts = quantiles(times_ms, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}
