"""A coordinator and fake hosts on one bus in memory, with time that stands still."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock, settle
from runtime.models import DynamicSubclassModelConcurrentRunner, ModelPredictResult
from test.support.fake_host import CLUSTER, FakeHost, Methods

T = TypeVar("T")

BASE = "birdgame.trackers.TrackerBase"


class Stage:
    """Hosts and a coordinator, each with a connection of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(self.clock)
        self.hosts: dict[str, FakeHost] = {}
        self.coordinators: list[DynamicSubclassModelConcurrentRunner] = []

    async def host(self, model_id: str, methods: Methods | None = None, **options: Any) -> FakeHost:
        """Start a host; `options` are those of `FakeHost`."""
        host = FakeHost(self.broker.connect(), self.clock, model_id, methods, **options)
        self.hosts[f"{model_id}.{host.deployment}"] = host
        await host.start()
        await settle()
        return host

    async def coordinator(self, **options: Any) -> DynamicSubclassModelConcurrentRunner:
        """Start a coordinator; `options` are those of its class."""
        runner = self.make(**options)
        await self.passing(runner.init(), 30.0)
        return runner

    def make(self, **options: Any) -> DynamicSubclassModelConcurrentRunner:
        fields = {
            "timeout": 2.0, "crunch_id": CLUSTER, "base_classname": BASE, "connection": self.broker.connect(),
            "clock": self.clock, **options,
        }  # fmt: skip
        runner = DynamicSubclassModelConcurrentRunner(**fields)
        self.coordinators.append(runner)
        return runner

    async def passing(self, awaitable: Awaitable[T], limit_s: float = 5.0) -> T:
        """Wait for it, while time passes in small steps; fails when that takes more than `limit_s` of it."""
        task = asyncio.ensure_future(awaitable)
        passed_s = 0.0
        await settle()
        while not task.done():
            assert passed_s <= limit_s, f"not done after {limit_s:g} s"
            await self.clock.advance(0.1)
            passed_s += 0.1
        return await task

    async def call(
        self, runner: DynamicSubclassModelConcurrentRunner, method: str = "predict", **options: Any
    ) -> dict[str, ModelPredictResult]:
        """Call all models; return the results by model id."""
        results = await self.passing(runner.call(method, **options))
        await settle()
        return {model.model_id: result for model, result in results.items()}

    async def until(self, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
        """Let time pass until the condition holds."""
        passed_s = 0.0
        await settle()
        while not condition():
            assert passed_s <= limit_s, f"did not happen within {limit_s:g} s"
            await self.clock.advance(0.25)
            passed_s += 0.25

    async def close(self) -> None:
        for runner in self.coordinators:
            await self.passing(runner.close())
        for host in self.hosts.values():
            host.bus.kill()  # type: ignore[attr-defined]  # of a bus in memory
            await self.passing(host.stop())
