"""A runner of algorithms from its settings to its end: discover, connect, join and serve (`runner.py`), stop in order.

A failure anywhere ends the process with a non-zero code, never as a live process that does nothing.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime import log as logs
from runtime.algorithms.discover import Description, adapter_file, discover
from runtime.algorithms.executors import Executor, ProcessExecutor, ThreadExecutor
from runtime.algorithms.runner import Runner, RunnerTerms
from runtime.bus.base import Bus
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.errors import BusClosedError, BusUnavailableError
from runtime.settings import AlgorithmsSettings
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds between two threads' turns while algorithms compute in threads: Python's 5 ms add up for the loop's thread,
# which has to win several turns for each answer.
SWITCH_INTERVAL_S = 0.0005


async def run_algorithms(settings: AlgorithmsSettings, stop: asyncio.Event) -> None:
    """Run one runner until `stop` is set. Raises AdapterError, AccessError, BusClosedError."""
    executor, algorithms = await open_executor(settings)
    try:
        bus = await _connected(settings, stop)
        if bus is None:
            return
        try:
            await _run_on(bus, Runner(bus, runner_terms(settings), algorithms, executor, SystemClock()), settings, stop)
        finally:
            await bus.close()
    finally:
        await executor.close()


async def open_executor(settings: AlgorithmsSettings) -> tuple[Executor, Sequence[Description]]:
    """Return what runs the adapter's functions, and what it offers. Raises AdapterError."""
    if settings.isolation == "process":
        workers = ProcessExecutor(settings.adapter, settings.environment)
        try:
            return workers, await workers.discover()
        except BaseException:
            await workers.close()
            raise
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    offer = discover(settings.adapter)
    threads = sum(each.concurrency or settings.concurrency for each in offer.descriptions)
    return ThreadExecutor(offer, threads), offer.descriptions


def runner_name(settings: AlgorithmsSettings) -> str:
    """Return the runner's name, by default that of the adapter's folder."""
    file = adapter_file(settings.adapter)
    folder = file.parent if file is not None else Path.cwd()
    return settings.runner or names.suggest_name(folder.name) or "runner"


def runner_terms(settings: AlgorithmsSettings) -> RunnerTerms:
    """Return how the runner of these settings serves."""
    return RunnerTerms(
        name=runner_name(settings),
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        max_claim_bytes=settings.max_claim_bytes,
        grace_s=settings.grace_s,
        replaces=settings.replace,
    )


async def _connected(settings: AlgorithmsSettings, stop: asyncio.Event) -> Bus | None:
    """Connect, however long NATS is away; None when asked to stop meanwhile. Raises AccessError, SettingsError."""
    stopped = asyncio.create_task(stop.wait(), name="stop")
    connecting = asyncio.create_task(_connect(settings), name="connect")
    try:
        await asyncio.wait([stopped, connecting], return_when=asyncio.FIRST_COMPLETED)
        return connecting.result() if connecting.done() else None
    finally:
        for task in (stopped, connecting):
            task.cancel()
        await asyncio.gather(stopped, connecting, return_exceptions=True)


async def _connect(settings: AlgorithmsSettings) -> Bus:
    while True:
        try:
            return await NatsBus.of(settings.nats, f"algorithms {runner_name(settings)}")
        except BusUnavailableError as error:  # no start order: it may come later
            log.warning("%s", error, extra={"action": "wait-nats"})


async def _run_on(bus: Bus, runner: Runner, settings: AlgorithmsSettings, stop: asyncio.Event) -> None:
    closed = asyncio.create_task(bus.wait_closed(), name="bus closed")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    starting = asyncio.create_task(runner.start(), name="start")
    try:
        await asyncio.wait([starting, closed, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            logs.tell_ready(settings.ready_fd)
            log.info("ready: %s", ", ".join(runner.record.algorithms), extra={"action": "ready"})
            ends: list[asyncio.Future[Any]] = [runner.ended, closed, stopped]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if runner.ended.done():
            runner.ended.result()
            log.warning("every algorithm is served by others now: this runner ends", extra={"action": "replaced"})
        if closed.done():
            raise BusClosedError("NATS has closed the connection for good")
    finally:
        for task in (closed, stopped, starting):
            task.cancel()
        await asyncio.gather(closed, stopped, starting, return_exceptions=True)
        await runner.stop()
