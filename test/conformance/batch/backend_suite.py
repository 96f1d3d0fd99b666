"""What every backend of batch runs has to show. Each function gets a bench: the backend under test, and its packages.

Models are scripts of the plain shell, with `flock` and `python3`: the same ones run as processes and in containers.
"""

import asyncio
import fcntl
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from runtime.batch.backend import Backend, Exit, Job, JobLimits, Running, worker_name
from runtime.errors import ModelStartError, PullError

ROOT = Path(__file__).parents[3]
# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 40.0
# Holds a lock for ever, in a session of its own and with nothing of the model's output in its hands.
DAEMON = "setsid flock {output}/held sleep 1000 </dev/null >/dev/null 2>&1 &"
HELD = "while flock --nonblock {output}/held true; do sleep 0.01; done"
# Takes memory in steps, slowly enough to be seen doing so.
GROW = "import time\nheld = []\nwhile True:\n    held.append(bytearray(4_000_000))\n    time.sleep(0.02)"


class Outputs:
    """What a run has written."""

    def __init__(self) -> None:
        self.pieces: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._more = asyncio.Event()

    def add(self, stream: str, data: bytes) -> None:
        self.pieces[stream] += data
        self._more.set()

    async def see(self, text: bytes, stream: str = "stdout") -> None:
        """Wait until the text was written."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.pieces[stream]:
                self._more.clear()
                await self._more.wait()


class Bench(Protocol):
    """One backend, and a folder for its runs."""

    backend: Backend
    folder: Path

    def package(self) -> dict[str, Any]:
        """Return the fields of a job that name a package which runs commands."""
        ...

    def missing_package(self) -> dict[str, Any]: ...

    def unstartable_package(self) -> dict[str, Any]: ...

    def worker_arguments(self) -> list[str]:
        """Return what `test.support.batch_worker` makes the same backend of."""
        ...

    def worker_environment(self) -> Mapping[str, str]: ...


def job(bench: Bench, script: str = "true", run_id: str = "r_model_0", **fields: Any) -> Job:
    """Return a job that runs a script, with its folders made."""
    root = bench.folder / run_id
    for name in ("input", "output", "log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return Job(
        **{
            "run_id": run_id,
            "worker": worker_name(),
            "input": root / "input",
            "output": root / "output",
            "log": root / "log",
            "metadata": root / "metadata.json",
            "command": ("/bin/sh", "-c", script),
            **bench.package(),
            **fields,
        }
    )


async def start(bench: Bench, script: str, **fields: Any) -> tuple[Running, Outputs, Job]:
    made, outputs = job(bench, script, **fields), Outputs()
    await bench.backend.prepare(made)
    return await bench.backend.start(made, outputs.add), outputs, made


async def run(bench: Bench, script: str, **fields: Any) -> tuple[Exit, Outputs, Job]:
    """Run a script to its end, and remove what is left of it."""
    running, outputs, made = await start(bench, script, **fields)
    async with asyncio.timeout(PATIENCE_S):
        ended = await running.wait()
    await running.remove()
    return ended, outputs, made


def is_held(made: Job) -> bool:
    """Say whether a process of the run holds the lock in its folder."""
    with (made.output / "held").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def exit_code_0_has_no_detail(bench: Bench) -> None:
    ended, _, _ = await run(bench, "exit 0")

    assert ended == Exit(code=0)


async def the_exit_code_is_told(bench: Bench) -> None:
    ended, _, _ = await run(bench, "exit 10")

    assert ended == Exit(code=10, detail="exit code 10")


async def both_streams_come_byte_by_byte_and_apart(bench: Bench) -> None:
    _, outputs, _ = await run(bench, r"printf 'a\377\000\r\n'; printf 'no newline' >&2")

    assert outputs.pieces == {"stdout": b"a\xff\x00\r\n", "stderr": b"no newline"}


async def output_is_seen_while_the_model_runs(bench: Bench) -> None:
    running, outputs, _ = await start(bench, "echo started; exec sleep 1000")

    await outputs.see(b"started\n")

    await running.stop(0.0)
    await running.remove()


async def two_hundred_megabytes_of_output_all_come(bench: Bench) -> None:
    counted = {"stdout": 0, "stderr": 0}

    def count(stream: str, data: bytes) -> None:
        counted[stream] += len(data)

    made = job(bench, "head -c 200000000 /dev/zero")
    await bench.backend.prepare(made)
    running = await bench.backend.start(made, count)
    async with asyncio.timeout(PATIENCE_S):
        ended = await running.wait()
    await running.remove()

    assert (ended.code, counted) == (0, {"stdout": 200_000_000, "stderr": 0})


async def the_model_sees_its_folders_and_leaves_its_metadata(bench: Bench) -> None:
    made = job(bench, 'cp {input}/in.txt {output}/out.txt; echo note > {log}/own.log; printf "{}" > {metadata}')
    (made.input / "in.txt").write_text("standard input")
    await bench.backend.prepare(made)

    running = await bench.backend.start(made, Outputs().add)
    ended = await running.wait()
    await running.remove()

    assert ended.code == 0
    assert (made.output / "out.txt").read_text() == "standard input"
    assert (made.log / "own.log").read_text() == "note\n"
    assert made.metadata.read_text() == "{}"


async def a_model_without_metadata_leaves_none(bench: Bench) -> None:
    _, _, made = await run(bench, "true")

    assert not made.metadata.exists()


async def arguments_reach_the_model_as_they_are(bench: Bench) -> None:
    arguments = ("model", "a b", "", "$HOME;`id`", "new\nline", "'\"\\", '{"json": {}}', "ü")

    _, outputs, _ = await run(bench, r'printf "%s\0" "$@"', arguments=arguments)

    assert outputs.pieces["stdout"].decode().split("\0")[:-1] == list(arguments[1:])


async def the_model_sees_its_own_environment_and_no_secret_of_its_worker(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_SHARED_SECRET", "hidden")
        _, outputs, _ = await run(bench, "env", environment={"CONNECTOR_VERSION": "0.9.1"})

    lines = outputs.pieces["stdout"].decode().splitlines()
    assert "CONNECTOR_VERSION=0.9.1" in lines
    assert not any("hidden" in line for line in lines)


async def standard_input_is_empty(bench: Bench) -> None:
    ended, outputs, _ = await run(bench, "cat")

    assert (ended.code, bytes(outputs.pieces["stdout"])) == (0, b"")


async def a_daemon_of_the_model_ends_with_it(bench: Bench) -> None:
    ended, _, made = await run(bench, f"{DAEMON} {HELD}; exit 0")

    assert ended.code == 0
    assert not is_held(made)


async def a_child_that_keeps_the_output_open_does_not_hold_up_the_end(bench: Bench) -> None:
    ended, outputs, _ = await run(bench, "sleep 1000 & echo said; exit 4")

    assert (ended.code, bytes(outputs.pieces["stdout"])) == (4, b"said\n")


async def stop_asks_first(bench: Bench) -> None:
    running, outputs, _ = await start(bench, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    await outputs.see(b"ready")

    await running.stop(PATIENCE_S)

    assert (await running.wait()).code == 7
    await running.remove()


async def a_model_that_ignores_the_request_is_killed_with_its_children_after_the_grace(bench: Bench) -> None:
    running, outputs, made = await start(bench, f"trap '' TERM; {DAEMON} {HELD}; echo ready; while :; do sleep 1; done")
    await outputs.see(b"ready")

    await running.stop(0.2)

    ended = await running.wait()
    assert (ended.code, ended.signal, ended.out_of_memory) == (None, "SIGKILL", False)
    assert not is_held(made)
    await running.remove()


async def remove_ends_what_still_runs_and_may_be_called_again(bench: Bench) -> None:
    running, outputs, made = await start(bench, f"{DAEMON} {HELD}; echo ready; exec sleep 1000")
    await outputs.see(b"ready")

    await running.remove()
    await running.remove()

    assert not is_held(made)


async def a_cancelled_wait_changes_nothing(bench: Bench) -> None:
    running, outputs, _ = await start(bench, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    await outputs.see(b"ready")

    waiting = asyncio.create_task(running.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    await running.stop(PATIENCE_S)
    assert (await running.wait()).code == 5
    await running.remove()


async def a_model_beyond_its_memory_is_ended_and_the_reason_is_told(bench: Bench) -> None:
    limits = JobLimits(memory_bytes=128_000_000)

    ended, _, _ = await run(bench, 'exec python3 -c "$1"', arguments=("model", GROW), limits=limits)

    assert (ended.code, ended.signal, ended.out_of_memory) == (None, "SIGKILL", True)
    assert ended.detail == "out of memory: more than the 128000000 bytes that it may use"


async def a_model_may_not_have_more_processes_than_its_limit(bench: Bench) -> None:
    script = "for i in $(seq 60); do sleep 1000 & done; wait"

    ended, _, _ = await run(bench, script, limits=JobLimits(pids=20))

    assert ended.code != 0


async def runs_beside_each_other_stay_apart(bench: Bench) -> None:
    scripts = {f"r_model_{number}": f"echo {number} > {{output}}/mine; echo {number}" for number in range(3)}

    results = await asyncio.gather(*(run(bench, script, run_id=run_id) for run_id, script in scripts.items()))

    assert [bytes(outputs.pieces["stdout"]) for _, outputs, _ in results] == [b"0\n", b"1\n", b"2\n"]
    assert [(made.output / "mine").read_text() for _, _, made in results] == ["0\n", "1\n", "2\n"]


async def the_version_is_the_one_that_the_node_states(bench: Bench) -> None:
    prepared = await bench.backend.prepare(job(bench, version="2.4.0"))

    assert prepared.version == "2.4.0"
    assert prepared.digest.startswith("sha256:")


async def without_a_version_the_digest_is_it_each_time_the_same(bench: Bench) -> None:
    first = await bench.backend.prepare(job(bench))
    again = await bench.backend.prepare(job(bench))

    assert first == again
    assert first.version == first.digest


async def a_package_that_there_is_not_cannot_be_pulled(bench: Bench) -> None:
    with pytest.raises(PullError, match="absent"):
        await bench.backend.prepare(job(bench, **bench.missing_package()))


async def a_package_that_cannot_be_started_says_why(bench: Bench) -> None:
    made = job(bench, **bench.unstartable_package())
    await bench.backend.prepare(made)

    with pytest.raises(ModelStartError, match="broken"):
        await bench.backend.start(made, Outputs().add)


async def started_by_a_worker_that_is_killed(bench: Bench) -> Job:
    """Return a job that runs until somebody ends it, whose worker is gone."""
    made = job(bench, f"{DAEMON} {HELD}; echo ready; exec sleep 1000")
    said = {"run_id": made.run_id, "root": str(made.input.parent), "image": made.image, "command": made.command}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "test.support.batch_worker", *bench.worker_arguments(), json.dumps(said),
        cwd=ROOT, env=bench.worker_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await worker.stdout.readline() == b"ready\n"
        worker.kill()
        await worker.wait()
    return made


async def what_a_dead_worker_has_left_is_ended(bench: Bench) -> None:
    made = await started_by_a_worker_that_is_killed(bench)

    await bench.backend.recover(worker_name())

    await not_held(made)


async def what_a_living_worker_runs_is_left_alone(bench: Bench) -> None:
    running, outputs, _ = await start(bench, "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done")
    await outputs.see(b"ready")

    await bench.backend.recover("another-worker")

    await running.stop(PATIENCE_S)
    assert (await running.wait()).code == 6
    await running.remove()


async def the_next_attempt_of_a_run_ends_what_the_last_one_has_left(bench: Bench) -> None:
    left = await started_by_a_worker_that_is_killed(bench)

    ended, outputs, _ = await run(bench, "echo again", run_id=left.run_id)

    assert (ended.code, bytes(outputs.pieces["stdout"])) == (0, b"again\n")
    await not_held(left)


async def not_held(made: Job) -> None:
    """Wait until no process of the run is left: a supervisor that ends by itself takes its time."""
    waiting = await asyncio.create_subprocess_exec("flock", "--timeout", str(PATIENCE_S), made.output / "held", "true")
    assert await waiting.wait() == 0


SUITE = (
    exit_code_0_has_no_detail,
    the_exit_code_is_told,
    both_streams_come_byte_by_byte_and_apart,
    output_is_seen_while_the_model_runs,
    two_hundred_megabytes_of_output_all_come,
    the_model_sees_its_folders_and_leaves_its_metadata,
    a_model_without_metadata_leaves_none,
    arguments_reach_the_model_as_they_are,
    the_model_sees_its_own_environment_and_no_secret_of_its_worker,
    standard_input_is_empty,
    a_daemon_of_the_model_ends_with_it,
    a_child_that_keeps_the_output_open_does_not_hold_up_the_end,
    stop_asks_first,
    a_model_that_ignores_the_request_is_killed_with_its_children_after_the_grace,
    remove_ends_what_still_runs_and_may_be_called_again,
    a_cancelled_wait_changes_nothing,
    a_model_beyond_its_memory_is_ended_and_the_reason_is_told,
    a_model_may_not_have_more_processes_than_its_limit,
    runs_beside_each_other_stay_apart,
    the_version_is_the_one_that_the_node_states,
    without_a_version_the_digest_is_it_each_time_the_same,
    a_package_that_there_is_not_cannot_be_pulled,
    a_package_that_cannot_be_started_says_why,
    what_a_dead_worker_has_left_is_ended,
    what_a_living_worker_runs_is_left_alone,
    the_next_attempt_of_a_run_ends_what_the_last_one_has_left,
)
