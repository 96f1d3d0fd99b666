"""Runners of algorithms as child processes against a real nats-server."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.algorithms import Algorithms
from runtime.bus.nats import NatsBus
from runtime.errors import AlgorithmError
from test.support.runtime_child import PATIENCE_S, RuntimeChild


class RunnerChild(RuntimeChild):
    """One runner as `python -m runtime algorithms`; the adapter is a folder with `runner_adapter.py`."""

    def __init__(self, folder: Path, url: str, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = {"NATS_SERVER": url, "ADAPTER": str(folder), **variables}
        super().__init__(
            ["runtime", "algorithms"],
            {f"KRT_{name}": value for name, value in own.items()},
            folder / f"runner-{os.urandom(3).hex()}.log",
        )

    async def says(self, text: str) -> None:
        """Wait until its log holds a text."""

        def look() -> None:
            while text not in self.log():
                time.sleep(0.02)  # a file tells nobody that it has grown

        await asyncio.wait_for(asyncio.to_thread(look), PATIENCE_S)


class Bench:
    """A client, and the runners of one test."""

    def __init__(self, bus: NatsBus, client: Algorithms, folder: Path, url: str) -> None:
        self.bus = bus
        self.client = client
        self.folder = folder
        self.url = url
        self._runners: list[RunnerChild] = []

    async def start(self, code: str, name: str = "images", **variables: str) -> RunnerChild:
        """Start a runner with this adapter, and wait until it serves."""
        return await self.launch(code, name, **variables).ready()

    def launch(self, code: str, name: str = "images", **variables: str) -> RunnerChild:
        """Start a runner without waiting for it."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "runner_adapter.py").write_text(code)
        runner = RunnerChild(folder, self.url, **variables)
        self._runners.append(runner)
        return runner

    async def fails(self, call: Awaitable[object]) -> AlgorithmError:
        """Return the error of a call that has to fail."""
        with pytest.raises(AlgorithmError) as raised:
            await call
        return raised.value

    async def stats(self, name: str, runner: str = "images") -> dict[str, int]:
        """Return what goes on in an algorithm now."""
        answer = json.loads((await self.bus.request(f"$SRV.STATS.algorithms-{runner}", b"", timeout_s=5)).data)
        found: dict[str, int] = next(each["data"] for each in answer["endpoints"] if each["name"] == name)
        return found

    async def until_stats(self, name: str, **wanted: int) -> None:
        """Wait until an algorithm is as it has to be."""
        async with asyncio.timeout(PATIENCE_S):
            while {key: (await self.stats(name))[key] for key in wanted} != wanted:
                continue

    async def until(self, condition: Callable[[set[str]], bool]) -> None:
        """Wait until the names of what is served are as they have to be."""
        await self.client.list()
        registry = self.client._registry
        assert registry is not None
        async with asyncio.timeout(PATIENCE_S):
            await registry.wait_until(lambda: condition(set(registry.algorithms())))

    def close_runners(self) -> None:
        for runner in self._runners:
            runner.close()
            print(f"log of {runner.log_file}:\n{runner.log()[-4000:]}")


@asynccontextmanager
async def open_bench(url: str, folder: Path) -> AsyncIterator[Bench]:
    """Connect; every runner is ended afterwards."""
    bus = await NatsBus.connect([url], name="test")
    async with Algorithms(bus) as client:
        bench = Bench(bus, client, folder, url)
        try:
            yield bench
        finally:
            bench.close_runners()
    await bus.close()
