"""Runs the suite of backends on `command`, and tests what only a supervisor has to show."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.backend import Backend, JobLimits
from runtime.batch.command import CommandBackend
from runtime.errors import BackendUnavailableError
from test.conformance.batch import backend_suite
from test.conformance.batch.backend_suite import DAEMON, HELD, is_held, job, not_held, run, start


class CommandBench:
    def __init__(self, folder: Path) -> None:
        self.backend: Backend = CommandBackend()
        self.folder = folder

    def package(self) -> dict[str, Any]:
        return {}

    def missing_package(self) -> dict[str, Any]:
        return {"command": ("absent-program",)}

    def unstartable_package(self) -> dict[str, Any]:
        program = self.folder / "broken"
        program.write_text("#!/nowhere/interpreter\n")
        program.chmod(0o755)
        return {"command": (str(program),)}

    def worker_arguments(self) -> list[str]:
        return ["command"]

    def worker_environment(self) -> Mapping[str, str]:
        return os.environ


@pytest.fixture
def bench(tmp_path: Path) -> CommandBench:
    return CommandBench(tmp_path)


@pytest.mark.parametrize("check", backend_suite.SUITE, ids=lambda check: check.__name__)
async def test_commands_conform(check: Callable[[backend_suite.Bench], Awaitable[None]], bench: CommandBench) -> None:
    await check(bench)


async def test_a_signal_that_ends_the_model_is_named(bench: CommandBench) -> None:
    ended, _, _ = await run(bench, "kill -SEGV $$")

    assert (ended.code, ended.signal, ended.detail) == (None, "SIGSEGV", "ended by SIGSEGV")


async def test_a_kill_from_elsewhere_hints_at_the_memory_of_the_host(bench: CommandBench) -> None:
    ended, _, _ = await run(bench, "kill -KILL $$")

    assert ended.detail == "ended by SIGKILL, which the runner did not send; the kernel does when memory runs out"


async def test_the_memory_of_all_processes_counts_together(bench: CommandBench) -> None:
    half = "held = bytearray(80_000_000)\nprint('has it', flush=True)\nimport time\ntime.sleep(1000)"

    ended, _, _ = await run(
        bench,
        'python3 -c "$1" & python3 -c "$1"; wait',
        arguments=("model", half),
        limits=JobLimits(memory_bytes=128_000_000),
    )

    assert ended.out_of_memory


async def test_memory_that_forked_processes_share_counts_once(bench: CommandBench) -> None:
    share = "import os, time\nheld = bytearray(80_000_000)\nos.fork()\nos.fork()\ntime.sleep(0.5)"

    ended, _, _ = await run(
        bench, 'exec python3 -c "$1"', arguments=("model", share), limits=JobLimits(memory_bytes=200_000_000)
    )

    assert ended.code == 0


async def test_too_many_processes_are_told(bench: CommandBench) -> None:
    ended, _, _ = await run(bench, "for i in $(seq 60); do sleep 1000 & done; wait", limits=JobLimits(pids=20))

    assert ended.detail == "more than the 20 processes and threads that it may have"


async def test_a_model_may_not_write_a_file_beyond_its_limit(bench: CommandBench) -> None:
    limits = JobLimits(file_bytes=1_000_000)

    _, _, made = await run(bench, "head -c 3000000 /dev/zero > {output}/big", limits=limits)

    assert (made.output / "big").stat().st_size <= 1_000_000


async def test_a_run_has_as_many_cores_as_its_limit_and_the_next_one_others(bench: CommandBench) -> None:
    cores = [await run(bench, "nproc; taskset -pc $$", limits=JobLimits(cpu=1)) for _ in range(2)]

    first, second = (bytes(outputs.pieces["stdout"]).split() for _, outputs, _ in cores)
    assert first[0] == second[0] == b"1"
    assert len(os.sched_getaffinity(0)) == 1 or first[-1] != second[-1]


async def test_gpus_are_hidden_from_a_run_that_asks_for_none(tmp_path: Path) -> None:
    bench = CommandBench(tmp_path)
    bench.backend = CommandBackend({**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2"})

    _, none, _ = await run(bench, 'echo "<$CUDA_VISIBLE_DEVICES>"')
    _, two, _ = await run(bench, 'echo "<$CUDA_VISIBLE_DEVICES>"', limits=JobLimits(gpu=2))

    assert (bytes(none.pieces["stdout"]), bytes(two.pieces["stdout"])) == (b"<>\n", b"<0,1>\n")


async def test_a_run_that_needs_more_gpus_than_there_are_waits_for_them(tmp_path: Path) -> None:
    backend = CommandBackend({**os.environ, "CUDA_VISIBLE_DEVICES": "0"})
    bench = CommandBench(tmp_path)

    with pytest.raises(BackendUnavailableError, match="needs 2 GPUs, and there are 1"):
        await backend.prepare(job(bench, limits=JobLimits(gpu=2)))


async def test_the_digest_changes_with_the_files_of_the_command(bench: CommandBench) -> None:
    script = bench.folder / "run.py"
    script.write_text("print(1)")
    made = job(bench, command=("python3", "run.py"), folder=bench.folder)
    before = await bench.backend.prepare(made)

    script.write_text("print(2, 3)")

    assert await bench.backend.prepare(made) != before


async def test_temporary_files_lie_in_the_folder_of_the_run(bench: CommandBench) -> None:
    _, outputs, made = await run(bench, "mktemp")

    assert Path(bytes(outputs.pieces["stdout"]).decode()).is_relative_to(made.input.parent)


async def test_a_model_whose_supervisor_is_killed_ends_with_all_it_has_started(bench: CommandBench) -> None:
    running, outputs, made = await start(bench, f"{DAEMON} {HELD}; echo $PPID; exec sleep 1000")
    await outputs.see(b"\n")

    os.kill(int(bytes(outputs.pieces["stdout"])), signal.SIGKILL)

    ended = await asyncio.wait_for(running.wait(), backend_suite.PATIENCE_S)
    assert ended.detail == "the supervisor of the run was killed, and the run with it"
    await not_held(made)
    await running.remove()


async def test_a_model_that_stops_its_supervisor_is_ended_all_the_same(
    bench: CommandBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.batch.command.PATIENCE_S", 0.2)
    running, outputs, made = await start(bench, f"{DAEMON} {HELD}; kill -STOP $PPID; echo done; exec sleep 1000")
    await outputs.see(b"done")

    await running.stop(0.0)

    assert (await running.wait()).signal == "SIGKILL"
    await not_held(made)
    await running.remove()


async def test_a_cancelled_start_leaves_no_process(bench: CommandBench) -> None:
    made = job(bench, f"{DAEMON} {HELD}; exec sleep 1000")
    starting = asyncio.create_task(bench.backend.start(made, lambda stream, data: None))

    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])

    assert starting.cancelled()
    await not_held(made)
    assert not is_held(made)
