"""Worker processes: what their code may do to them, and what their parent sees of it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from runtime.errors import WorkerBusyError, WorkerEndedError
from runtime.workers import Worker
from test.support.waiting import until_gone

JOBS = "test.support.worker_jobs"
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 20.0
ROOT = Path(__file__).parents[2]
# Python has a package `test` of its own.
SEES_TESTS = {"PYTHONPATH": str(ROOT)}

StartWorker = Callable[..., Awaitable[Worker]]


class Lines:
    """What a worker has printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def wait_for(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not any(text in line for line in self.lines):
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def start_worker(lines: Lines) -> AsyncIterator[StartWorker]:
    workers: list[Worker] = []

    async def start(
        function: str = "make_answer", environment: Mapping[str, str] = MappingProxyType({}), **options: Any
    ) -> Worker:
        worker = await Worker.start(
            f"{JOBS}:{function}", on_line=lines, environment={**SEES_TESTS, **environment}, **options
        )
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        await worker.close(grace_s=0)


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
async def test_a_request_of_any_size_is_answered(start_worker: StartWorker, size: int) -> None:
    worker = await start_worker()
    data = os.urandom(size)

    assert await worker.ask(b"echo " + data) == data
    assert await worker.ask(b"echo again") == b"again"


async def test_what_it_prints_becomes_lines_and_disturbs_no_answer(start_worker: StartWorker, lines: Lines) -> None:
    worker = await start_worker()

    assert await worker.ask(b"print \xff\x00\x01 straight to the descriptor") == b""

    await lines.wait_for("straight to the descriptor")
    await lines.wait_for("to standard error")


async def test_it_sees_nothing_of_its_parents_settings(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRT_NATS_SERVER", "nats://user:secret@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    worker = await start_worker(environment={"RESOURCE_DIRECTORY": "/data"})

    environ = (await worker.ask(b"environ")).decode()

    assert "secret" not in environ
    assert "KRT_" not in environ
    assert "RESOURCE_DIRECTORY=/data" in environ
    assert "PATH=" in environ


async def test_it_has_a_group_of_its_own(start_worker: StartWorker) -> None:
    worker = await start_worker()

    assert await worker.ask(b"group") == f"{worker.pid} {worker.pid}".encode()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has SCHED_BATCH")
async def test_it_wakes_up_without_taking_the_processor_from_its_parent(start_worker: StartWorker) -> None:
    worker = await start_worker()

    await worker.ask(b"group")

    assert os.sched_getscheduler(worker.pid) == os.SCHED_BATCH


async def test_a_second_request_is_refused_while_it_works_on_one(start_worker: StartWorker) -> None:
    worker = await start_worker()
    first = asyncio.create_task(worker.ask(b"sleep"))
    await asyncio.sleep(0)

    with pytest.raises(WorkerBusyError):
        await worker.ask(b"echo")

    worker.kill()
    with pytest.raises(WorkerEndedError):
        await first


@pytest.mark.parametrize("deed", [b"sleep", b"hang"])
async def test_a_worker_that_hangs_can_be_killed(start_worker: StartWorker, deed: bytes) -> None:
    worker = await start_worker()
    asking = asyncio.create_task(worker.ask(deed))
    await asyncio.sleep(0)

    worker.kill()

    with pytest.raises(WorkerEndedError, match="SIGKILL") as ended:
        async with asyncio.timeout(PATIENCE_S):
            await asking
    assert ended.value.exit_code == -signal.SIGKILL
    assert not worker.is_alive


async def test_a_stopped_worker_can_be_killed(start_worker: StartWorker) -> None:
    worker = await start_worker()
    await worker.ask(b"echo")
    os.kill(worker.pid, signal.SIGSTOP)

    worker.kill()

    async with asyncio.timeout(PATIENCE_S):
        assert await worker.wait() == -signal.SIGKILL


async def test_its_end_is_told_to_whoever_waits_and_to_whoever_asks_later(start_worker: StartWorker) -> None:
    worker = await start_worker()

    with pytest.raises(WorkerEndedError, match="exit code 7"):
        await worker.ask(b"exit 7")
    with pytest.raises(WorkerEndedError, match="exit code 7"):
        await worker.ask(b"echo")

    assert await worker.wait() == 7


async def test_one_that_closes_its_channel_is_ended(start_worker: StartWorker) -> None:
    worker = await start_worker()

    with pytest.raises(WorkerEndedError, match="SIGKILL"):
        async with asyncio.timeout(PATIENCE_S):
            await worker.ask(b"close")


async def test_an_error_in_the_job_itself_ends_it_with_a_traceback(start_worker: StartWorker, lines: Lines) -> None:
    worker = await start_worker()

    with pytest.raises(WorkerEndedError, match="exit code 1"):
        await worker.ask(b"raise what was that")

    assert any("RuntimeError: what was that" in line for line in lines.lines)


async def test_a_job_that_cannot_be_made_ends_it(start_worker: StartWorker, lines: Lines) -> None:
    worker = await start_worker("fail_to_start")

    with pytest.raises(WorkerEndedError, match="exit code 1"):
        await worker.ask(b"echo")

    assert any("no model here" in line for line in lines.lines)


async def test_a_copy_of_the_process_does_not_answer_for_it(start_worker: StartWorker) -> None:
    worker = await start_worker()

    answers = [await worker.ask(request) for request in (b"fork", b"echo one", b"fork", b"echo two")]

    assert answers == [b"parent", b"one", b"parent", b"two"]


@pytest.mark.parametrize("deed", [b"program", b"leave"])
async def test_what_it_has_started_goes_with_it(start_worker: StartWorker, deed: bytes) -> None:
    worker = await start_worker()
    left = int(await worker.ask(deed))

    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        await worker.wait()

    await until_gone(left)


async def test_a_process_that_it_leaves_behind_holds_up_no_answer(start_worker: StartWorker) -> None:
    worker = await start_worker()
    await worker.ask(b"leave")

    with pytest.raises(WorkerEndedError, match="exit code 3"):
        async with asyncio.timeout(PATIENCE_S):
            await worker.ask(b"exit 3")


async def test_an_allocation_beyond_its_memory_fails(start_worker: StartWorker) -> None:
    worker = await start_worker(memory_bytes=256 * 1024 * 1024)

    assert await worker.ask(b"allocate 1000000000") == b"refused"
    assert await worker.ask(b"allocate 1000000") == b"1000000"


async def test_a_cancelled_request_keeps_it_busy_until_it_is_answered(start_worker: StartWorker) -> None:
    worker = await start_worker()
    asking = asyncio.create_task(worker.ask(b"echo " + b"x" * 1_000_000))
    await asyncio.sleep(0)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    with pytest.raises(WorkerBusyError):
        await worker.ask(b"echo mine")
    async with asyncio.timeout(PATIENCE_S):
        while worker.is_busy:  # noqa: ASYNC110  # only the dropped answer ends it, which nobody is told of
            await asyncio.sleep(0.01)
    assert await worker.ask(b"echo mine") == b"mine"


async def test_one_that_is_closed_ends_by_itself(start_worker: StartWorker) -> None:
    worker = await start_worker()
    await worker.ask(b"echo")

    assert await worker.close() == 0


async def test_one_that_is_closed_while_it_hangs_is_killed(start_worker: StartWorker) -> None:
    worker = await start_worker()
    asking = asyncio.create_task(worker.ask(b"sleep"))
    await asyncio.sleep(0)

    assert await worker.close(grace_s=0.1) == -signal.SIGKILL
    with pytest.raises(WorkerEndedError):
        await asking


PARENT = """
import asyncio, sys
from runtime.workers import Worker
async def main():
    job = "test.support.worker_jobs:make_answer"
    worker = await Worker.start(job, on_line=print, environment={{"PYTHONPATH": "."}})
    print(worker.pid, flush=True)
    await worker.ask(b"sleep")
{loop}
"""
LOOPS = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}


@pytest.mark.parametrize("loop", sorted(LOOPS))
async def test_it_does_not_outlive_a_parent_that_is_killed(loop: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT.format(loop=LOOPS[loop]), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), PATIENCE_S))

    parent.kill()

    await until_gone(pid)
    await parent.wait()
