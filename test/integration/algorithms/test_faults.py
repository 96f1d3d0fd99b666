"""Faults of a runner's machine: workers killed, connections lost, NATS that lets nobody in, many clients at once."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.algorithms import Algorithms
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.presence import EXPIRY_S
from test.support.algorithms import Bench, RunnerChild, open_bench
from test.support.runtime_child import PATIENCE_S

ADAPTER = """
import os, pathlib, signal, time

HERE = pathlib.Path(__file__).parent

def run_hold(file: str):
    pathlib.Path(file).write_text(str(os.getpid()))
    while not (HERE / "free").exists():
        time.sleep(0.01)
    return "done"

def run_pid():
    return os.getpid()

def run_signal():
    os.kill(os.getpid(), signal.SIGKILL)

def run_later(seconds: float):
    time.sleep(seconds)
    return "done"
"""


async def test_a_worker_that_a_signal_ends_is_named_and_replaced(bench: Bench) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION="process")
    before = await bench.client.run("pid")

    error = await bench.fails(bench.client.run("signal"))

    assert (error.outcome, "SIGKILL" in error.detail) == ("failed", True)
    assert await bench.client.run("pid") != before


async def test_a_worker_killed_from_outside_fails_its_own_call_alone(bench: Bench) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION="process", ALGORITHMS_CONCURRENCY="2")
    files = [bench.folder / "first", bench.folder / "second"]
    calls = [asyncio.ensure_future(bench.client.run("hold", {"file": str(file)})) for file in files]
    worker, _ = [await asyncio.wait_for(asyncio.to_thread(_pid_in, file), PATIENCE_S) for file in files]

    os.kill(worker, signal.SIGKILL)
    error = await bench.fails(calls[0])
    (bench.folder / "images" / "free").touch()

    assert (error.outcome, "SIGKILL" in error.detail) == ("failed", True)
    assert await calls[1] == "done"


def _pid_in(file: Path) -> int:
    """Return what a call has written, once it has."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not file.exists() or not file.read_text():
        assert time.monotonic() < give_up_s, f"{file} is not written"
        time.sleep(0.01)  # a file tells nobody that it is there
    return int(file.read_text())


async def test_a_runner_that_lost_its_connection_is_gone_and_returns_by_itself(bench: Bench) -> None:
    runner = await bench.start(ADAPTER)
    await bench.client.wait("pid", timeout=10)
    stopped_s = time.monotonic()

    runner.process.send_signal(signal.SIGSTOP)
    await bench.until(lambda served: not served)
    gone_after_s = time.monotonic() - stopped_s
    runner.process.send_signal(signal.SIGCONT)
    await bench.until(lambda served: "pid" in served)

    assert gone_after_s < EXPIRY_S + 3
    assert await bench.client.run("pid") == runner.process.pid


async def test_a_runner_that_nats_does_not_let_in_ends(
    start_nats_server: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    server = start_nats_server(authorization={"users": [{"user": "ada", "password": "correct-horse"}]})
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "runner_adapter.py").write_text(ADAPTER)
    runner = RunnerChild(folder, server.url)
    try:
        code = await runner.exit_code()
        log = runner.log()
    finally:
        runner.close()

    assert code not in (0, None) and "ready" not in log
    assert "Authorization" in log or "credentials" in log


async def test_a_server_that_restarts_finds_the_runner_again(bench: Bench, nats_server: EmbeddedServer) -> None:
    await bench.start(ADAPTER)
    pid = await bench.client.run("pid")

    nats_server.stop_blocking()
    nats_server.start_blocking()

    async with asyncio.timeout(PATIENCE_S), open_bench(bench.url, bench.folder) as anew:
        assert (await anew.client.wait("pid", timeout=PATIENCE_S)).runners == ("images",)
        assert await anew.client.run("pid") == pid


@pytest.mark.timeout(60)
async def test_replicas_killed_under_calls_answer_or_fail_every_one(bench: Bench) -> None:
    runners = [await bench.start(ADAPTER, ALGORITHMS_CONCURRENCY="20") for _ in range(2)]
    calls = [asyncio.ensure_future(bench.client.run("later", {"seconds": 0.5}, timeout=30)) for _ in range(20)]
    # One that no runner says to have taken would wait for its timeout.
    async with asyncio.timeout(PATIENCE_S):
        while not are_taken(bench.client, calls):
            await bench.stats("later")

    runners[0].kill()
    ended = await asyncio.gather(*calls, return_exceptions=True)

    outcomes = {result if isinstance(result, str) else getattr(result, "outcome", repr(result)) for result in ended}
    assert len(ended) == 20 and outcomes <= {"done", "unavailable"} and "done" in outcomes


def are_taken(client: Algorithms, calls: Sequence[asyncio.Future[Any]]) -> bool:
    """Say whether every call has ended, or has a runner."""
    open_calls = client._calls.values()
    return len(open_calls) + sum(call.done() for call in calls) == len(calls) and all(
        call.instance for call in open_calls
    )
