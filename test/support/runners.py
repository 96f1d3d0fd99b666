"""Runners of algorithms in the process of the test, on any bus."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.algorithms import discover
from runtime.algorithms.executors import ThreadExecutor
from runtime.algorithms.runner import Runner, RunnerTerms
from runtime.bus.base import Bus
from runtime.clock import SystemClock


@asynccontextmanager
async def running(bus: Bus, folder: Path, code: str, name: str = "images") -> AsyncIterator[Runner]:
    """Serve an adapter with this code inside the block."""
    adapter = folder / name / "runner_adapter.py"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.write_text(code)
    offer = discover(str(adapter))
    terms = RunnerTerms(name=name, concurrency=1, timeout_s=5.0, max_claim_bytes=1024 * 1024, grace_s=1.0)
    executor = ThreadExecutor(offer, len(offer.names))
    runner = Runner(bus, terms, offer.descriptions, executor, SystemClock())
    try:
        await runner.start()
        yield runner
    finally:
        await runner.stop()
        await executor.close()
