"""The supervisor on real child processes: readiness, crashes, order of start and end, and nothing left behind."""

import asyncio
import logging
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.deploy.process import Process, Readiness, ReplicaStatus, RestartPolicy, State
from runtime.deploy.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20

# Small delays; a process counts as healthy after a time that no test reaches.
POLICY = RestartPolicy(
    first_delay_s=0.01, max_delay_s=0.05, healthy_after_s=600, crash_loop_exits=4, crash_loop_window_s=600
)

# What the children of these tests begin with.
PRELUDE = """
import os, signal, subprocess, sys, time

def ready():
    fd = int(os.environ["KRT_READY_FD"])
    os.write(fd, b"ready\\n")
    os.close(fd)
"""
WORK = "ready(); time.sleep(600)"
IGNORE_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
# Tells the pid of a process of its own, and works.
WITH_GRANDCHILD = "print(subprocess.Popen(['sleep', '600']).pid); " + WORK

Lines = list[tuple[str, str]]


@pytest.fixture
def lines() -> Lines:
    """The lines of all processes, as (replica, line)."""
    return []


@pytest.fixture
def supervisor(lines: Lines) -> Supervisor:
    return Supervisor(
        on_line=lambda name, line: lines.append((name, line)), command=(sys.executable, "-S", "-c"), policy=POLICY
    )


def child(name: str, script: str, *, replicas: int = 1, stage: int = 0, **environment: str) -> Process:
    return Process(name=name, arguments=(PRELUDE + script,), replicas=replicas, stage=stage, environment=environment)


async def reach(supervisor: Supervisor, condition: Callable[[list[ReplicaStatus]], bool]) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await supervisor.wait_until(condition)
    except TimeoutError:
        pytest.fail(f"not reached: {supervisor.states()}")


def all_work(states: list[ReplicaStatus]) -> bool:
    return all(status.works for status in states)


def is_in(name: str, state: State) -> Callable[[list[ReplicaStatus]], bool]:
    return lambda states: any(status.name == name and status.state is state for status in states)


async def in_time(awaitable: Awaitable[None]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await awaitable


@asynccontextmanager
async def watched(pids: list[int]) -> AsyncIterator[None]:
    """Fail unless these processes, which are there at the beginning, have ended soon after the block."""
    pidfds = {pid: os.pidfd_open(pid) for pid in pids}
    try:
        yield
        alive = [pid for pid, pidfd in pidfds.items() if not await asyncio.to_thread(has_ended, pidfd)]
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        assert alive == []
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def has_ended(pidfd: int) -> bool:
    """Say whether a process ends within the time limit; its pidfd becomes readable then."""
    return bool(select.select([pidfd], [], [], TIMEOUT_S)[0])


def pids(supervisor: Supervisor) -> list[int]:
    return [status.pid for status in supervisor.states() if status.pid is not None]


async def test_a_process_is_starting_until_it_says_that_it_is_ready(supervisor: Supervisor, tmp_path: Path) -> None:
    os.mkfifo(gate := tmp_path / "gate")
    async with supervisor:
        waiting = asyncio.create_task(supervisor.start([child("score", f"open({str(gate)!r}).read(); {WORK}")]))
        await reach(supervisor, lambda states: [status.pid is not None for status in states] == [True])
        assert [status.state for status in supervisor.states()] == [State.STARTING]

        # Opening returns when the child has opened its end.
        await asyncio.to_thread(gate.write_text, "go")

        await in_time(waiting)
        assert [status.state for status in supervisor.states()] == [State.READY]


async def test_a_process_that_tells_nothing_counts_as_running(supervisor: Supervisor) -> None:
    silent = Process(name="driver", arguments=("import time; time.sleep(600)",), ready=Readiness.STARTED)

    async with supervisor:
        await in_time(supervisor.start([silent]))

        assert [(status.name, status.state) for status in supervisor.states()] == [("driver", State.RUNNING)]


async def test_output_and_errors_of_every_replica_come_out_as_lines_under_its_name(
    supervisor: Supervisor, lines: Lines
) -> None:
    script = (
        "print('out', os.environ['KRT_X']); print('err', file=sys.stderr); sys.stdout.write('no newline'); sys.exit(2)"
    )

    async with supervisor:
        await in_time(supervisor.start([child("score", script, replicas=2, KRT_X="42")]))

    for name in ("score/1", "score/2"):
        assert [line for replica, line in lines if replica == name] == ["out 42", "err", "no newline"]


async def test_a_line_longer_than_the_pipe_arrives_whole(supervisor: Supervisor, lines: Lines) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", "print('x' * 500_000); sys.exit(2)")]))

    assert lines == [("score", "x" * 500_000)]


async def test_a_crashed_process_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    # The third start works.
    script = f"""
with open({str(tmp_path / "starts")!r}, "a+") as starts:
    starts.write("x")
    starts.seek(0)
    if len(starts.read()) < 3:
        sys.exit(1)
{WORK}
"""
    async with supervisor:
        await in_time(supervisor.start([child("score", script)]))
        await reach(supervisor, all_work)

        [status] = supervisor.states()
        assert (status.state, status.restarts, status.last_exit) == (State.READY, 2, 1)


async def test_a_killed_process_is_started_again_with_another_pid(supervisor: Supervisor) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", WORK)]))
        [killed_pid] = pids(supervisor)

        os.kill(killed_pid, signal.SIGKILL)
        await reach(supervisor, lambda states: all_work(states) and states[0].restarts == 1)

        [status] = supervisor.states()
        assert status.last_exit == -signal.SIGKILL
        assert status.pid != killed_pid


async def test_a_crash_loop_is_reported_once_tried_on_and_spares_the_others(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("bad", "print('no model'); sys.exit(1)"), child("good", WORK)]))
        await reach(supervisor, is_in("bad", State.CRASH_LOOPING))
        # Three more ends after the fourth, which made it a crash loop.
        await reach(supervisor, lambda states: states[0].restarts == 7)

        bad, good = supervisor.states()
        assert bad.state is State.CRASH_LOOPING
        assert (good.state, good.restarts) == (State.READY, 0)

    [error] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage() == (
        "bad ended with exit code 1 as before; it does so again and again, and is now tried every 0.05 s"
    )


FAILING = """
print("2026-11-22T10:00:00.%03dZ INFO starting" % (time.time() % 1 * 1000))
print("2026-11-22T10:00:00.000Z ERROR no model at all node=score action=failed")
print("  Traceback")
sys.exit(1)
"""


async def test_a_failure_that_is_the_same_again_is_shown_once_and_told_at_every_restart(
    supervisor: Supervisor, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", FAILING)]))
        await reach(supervisor, is_in("score", State.CRASH_LOOPING))
        [status] = supervisor.states()

    assert [line.split(" ", 1)[1] for _, line in lines] == [
        "INFO starting",
        "ERROR no model at all node=score action=failed",
        " Traceback",
    ]
    assert status.last_error == "no model at all"
    told = [record.getMessage().partition(";")[0] for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["score ended with exit code 1", *["score ended with exit code 1 as before"] * 3]


async def test_an_error_of_a_process_is_over_once_it_works(supervisor: Supervisor, tmp_path: Path) -> None:
    script = f"""
if not os.path.exists({str(tmp_path / "repaired")!r}):
    {FAILING.strip().replace(chr(10), chr(10) + "    ")}
{WORK}
"""
    async with supervisor:
        await in_time(supervisor.start([child("score", script)]))
        await reach(supervisor, lambda states: states[0].last_error == "no model at all")

        (tmp_path / "repaired").touch()
        await reach(supervisor, all_work)

        assert supervisor.states()[0].last_error == ""


async def test_a_process_that_was_killed_has_its_signal_for_an_error(supervisor: Supervisor) -> None:
    told = "print('2026-11-22T10:00:00.000Z ERROR a dead letter action=dead'); "

    async with supervisor:
        await in_time(supervisor.start([child("score", f"{told}ready(); os.kill(os.getpid(), signal.SIGKILL)")]))
        await reach(supervisor, is_in("score", State.BACKOFF))

        assert supervisor.states()[0].last_error == "SIGKILL"


async def test_a_configuration_error_is_not_retried_until_a_restart(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repaired = tmp_path / "repaired"
    script = f"""
if not os.path.exists({str(repaired)!r}):
    print("handler.py has no handler")
    sys.exit(2)
{WORK}
"""
    async with supervisor:
        await in_time(supervisor.start([child("score", script), child("other", WORK)]))
        await reach(supervisor, is_in("other", State.READY))
        assert [status.state for status in supervisor.states()] == [State.FAILED, State.READY]

        repaired.touch()
        await in_time(supervisor.restart("score"))
        await reach(supervisor, all_work)

        assert [status.restarts for status in supervisor.states()] == [1, 0]
    [error] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage() == (
        "score ended with exit code 2; its configuration or its code is wrong, so it stays down until it is restarted"
    )


async def test_a_restart_replaces_every_replica_and_counts_as_no_crash(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", WORK, replicas=2), child("other", WORK)]))
        first_pids = pids(supervisor)

        await in_time(supervisor.restart("score"))
        await reach(supervisor, all_work)

        assert set(pids(supervisor)) & set(first_pids) == {first_pids[2]}
        assert [status.restarts for status in supervisor.states()] == [1, 1, 0]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_restart_kills_what_does_not_end_in_time(supervisor: Supervisor) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", IGNORE_SIGTERM + WORK)]))

        await in_time(supervisor.restart("score", grace_s=0.05))

        assert supervisor.states()[0].last_exit == -signal.SIGKILL
        await supervisor.stop(grace_s=0)


async def test_a_restart_of_an_unknown_process_is_refused(supervisor: Supervisor) -> None:
    async with supervisor:
        with pytest.raises(ValueError, match="no process 'scor'"):
            await supervisor.restart("scor")


async def test_stages_start_in_order_and_end_in_reverse(supervisor: Supervisor, lines: Lines) -> None:
    script = "signal.signal(signal.SIGTERM, lambda *_: (print('end'), sys.exit())); print('begin'); " + WORK
    plan = [child("driver", script, stage=2), child("manager", script), child("score", script, stage=1)]

    async with supervisor:
        await in_time(supervisor.start(plan))

    assert lines == [
        ("manager", "begin"),
        ("score", "begin"),
        ("driver", "begin"),
        ("driver", "end"),
        ("score", "end"),
        ("manager", "end"),
    ]
    assert {status.state for status in supervisor.states()} == {State.STOPPED}
    assert {status.last_exit for status in supervisor.states()} == {0}


async def test_a_stage_that_never_becomes_ready_does_not_keep_the_next_one_down(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    plan = [child("hangs", "time.sleep(600)"), child("score", WORK, stage=1)]

    async with supervisor:
        await in_time(supervisor.start(plan, stage_timeout_s=0.5))
        await reach(supervisor, is_in("score", State.READY))

        assert [status.state for status in supervisor.states()] == [State.STARTING, State.READY]
    assert "still not ready after 0.5 s: hangs; going on without" in caplog.text


async def test_what_ignores_the_request_to_end_is_killed_after_the_grace(supervisor: Supervisor) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("stubborn", IGNORE_SIGTERM + WORK), child("polite", WORK)]))

        async with watched(pids(supervisor)):
            await in_time(supervisor.stop(grace_s=0.2))

    assert [status.last_exit for status in supervisor.states()] == [-signal.SIGKILL, -signal.SIGTERM]


async def test_a_second_stop_kills_at_once(supervisor: Supervisor) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("stubborn", IGNORE_SIGTERM + WORK)]))
        first_stop = asyncio.create_task(supervisor.stop(grace_s=3600))
        await asyncio.sleep(0)

        await in_time(supervisor.stop(grace_s=3600))
        await in_time(first_stop)

    assert supervisor.states()[0].last_exit == -signal.SIGKILL


async def test_a_stop_ends_the_pause_before_the_next_start(lines: Lines) -> None:
    supervisor = Supervisor(
        on_line=lambda name, line: lines.append((name, line)),
        command=(sys.executable, "-S", "-c"),
        policy=RestartPolicy(first_delay_s=3600, max_delay_s=3600),
    )
    async with supervisor:
        await in_time(supervisor.start([child("score", "sys.exit(1)")]))
        await reach(supervisor, is_in("score", State.BACKOFF))

        await in_time(supervisor.stop(grace_s=3600))

    assert [(status.state, status.restarts) for status in supervisor.states()] == [(State.STOPPED, 0)]


async def test_a_process_whose_restarts_are_used_up_stays_down_until_it_is_restarted(supervisor: Supervisor) -> None:
    policy = RestartPolicy(first_delay_s=0.01, crash_loop_exits=3, gives_up=True)
    model = Process(name="model", arguments=(PRELUDE + "sys.exit(1)",), ready=Readiness.STARTED, policy=policy)

    async with supervisor:
        await in_time(supervisor.start([model]))
        await reach(supervisor, is_in("model", State.FAILED))
        given_up = supervisor.states()[0]
        await in_time(supervisor.restart("model"))
        await reach(supervisor, is_in("model", State.FAILED))

    assert (given_up.restarts, given_up.last_exit, given_up.pid) == (2, 1, None)
    assert supervisor.states()[0].restarts == 5


async def test_an_end_that_another_start_would_repeat_is_the_last(supervisor: Supervisor) -> None:
    policy = RestartPolicy(first_delay_s=0.01, final_exit_codes=frozenset({3}))
    model = Process(name="model", arguments=(PRELUDE + "sys.exit(3)",), ready=Readiness.STARTED, policy=policy)

    async with supervisor:
        await in_time(supervisor.start([model]))
        await reach(supervisor, is_in("model", State.FAILED))

    assert (supervisor.states()[0].restarts, supervisor.states()[0].last_exit) == (0, 3)


async def test_an_amended_process_goes_on_and_is_started_by_its_new_description(
    supervisor: Supervisor, lines: Lines
) -> None:
    said = f"print(os.environ['KRT_X']); {WORK}"
    old, new = child("score", said, KRT_X="old"), child("score", said, KRT_X="new")

    async with supervisor:
        await in_time(supervisor.start([old]))
        before = pids(supervisor)
        supervisor.amend(new)
        await in_time(supervisor.update([new]))
        after = pids(supervisor)
        await in_time(supervisor.restart("score"))
        await reach(supervisor, is_in("score", State.READY))

    assert before == after
    assert [line for _, line in lines] == ["old", "new"]


async def test_an_error_in_the_block_ends_every_process_and_is_raised_as_it_is(supervisor: Supervisor) -> None:
    async with AsyncExitStack() as checks:
        with pytest.raises(LookupError, match="the caller's own mistake"):
            async with supervisor:
                await in_time(supervisor.start([child("score", WORK, replicas=2)]))
                await checks.enter_async_context(watched(pids(supervisor)))
                raise LookupError("the caller's own mistake")


async def test_cancelling_the_block_twice_kills_every_process(supervisor: Supervisor) -> None:
    async def run() -> None:
        async with supervisor:
            await supervisor.start([child("stubborn", IGNORE_SIGTERM + WORK)])
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await reach(supervisor, is_in("stubborn", State.READY))
    async with watched(pids(supervisor)):
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_the_grandchildren_of_a_process_end_with_it(supervisor: Supervisor, lines: Lines) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", WITH_GRANDCHILD)]))
        [(_, grandchild_pid)] = lines

        async with watched([int(grandchild_pid)]):
            os.kill(pids(supervisor)[0], signal.SIGKILL)


async def test_a_command_that_cannot_be_started_is_tried_again(lines: Lines) -> None:
    supervisor = Supervisor(
        on_line=lambda name, line: lines.append((name, line)), command=("/nowhere/python",), policy=POLICY
    )
    async with supervisor:
        await in_time(supervisor.start([Process(name="score", arguments=())]))
        await reach(supervisor, lambda states: states[0].restarts == 1)

    assert supervisor.states()[0].last_exit == 127
    assert lines[0] == ("score", "cannot be started: [Errno 2] No such file or directory: '/nowhere/python'")


SUPERVISING_PROCESS = """
import asyncio, sys
from runtime.deploy.process import Process
from runtime.deploy.supervisor import Supervisor

async def main(script):
    async with Supervisor(on_line=print, command=(sys.executable, "-S", "-c")) as supervisor:
        await supervisor.start([Process(name="score", arguments=(script,), replicas=2)])
        print(*[status.pid for status in supervisor.states()], flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


async def test_a_killed_supervisor_leaves_no_process() -> None:
    command = [sys.executable, "-c", SUPERVISING_PROCESS, PRELUDE + IGNORE_SIGTERM + WORK]
    parent = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    children = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(children) == 2

    async with watched(children):
        parent.kill()
        await parent.wait()


async def test_every_replica_knows_its_number(supervisor: Supervisor, lines: Lines) -> None:
    async with supervisor:
        await in_time(supervisor.start([child("score", f"print(os.environ['KRT_REPLICA']); {WORK}", replicas=2)]))

    assert sorted(lines) == [("score/1", "1"), ("score/2", "2")]


async def test_an_update_replaces_what_differs_and_leaves_the_rest_alone(supervisor: Supervisor, lines: Lines) -> None:
    tell = f"print(os.environ['MODE']); {WORK}"
    async with supervisor:
        await in_time(
            supervisor.start([child("same", tell, MODE="1"), child("gone", WORK), child("edited", tell, MODE="2")])
        )
        before = {status.name: status.pid for status in supervisor.states()}

        await in_time(
            supervisor.update([child("same", tell, MODE="1"), child("edited", tell, MODE="3"), child("new", WORK)])
        )

        after = {status.name: status.pid for status in supervisor.states() if status.works}
    assert sorted(after) == ["edited", "new", "same"]
    assert [name for name in after if after[name] == before.get(name)] == ["same"]
    assert sorted(lines) == [("edited", "2"), ("edited", "3"), ("same", "1")]


async def test_stages_end_in_order_after_an_update_of_the_first_one(supervisor: Supervisor, lines: Lines) -> None:
    tell_end = f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('ends'))); {WORK}"
    later = child("score", tell_end, stage=1)
    async with supervisor:
        await in_time(supervisor.start([child("manager", tell_end, MODE="1"), later]))
        await in_time(supervisor.update([child("manager", tell_end, MODE="2"), later]))
        lines.clear()

    assert lines == [("score", "ends"), ("manager", "ends")]


async def test_a_process_that_stays_to_tell_why_it_failed_is_failed_and_does_not_hold_up_the_start(
    supervisor: Supervisor,
) -> None:
    failed = PRELUDE.replace(r'b"ready\n"', r'b"failed\n"') + WORK

    async with supervisor:
        await supervisor.start([Process(name="driver", arguments=(failed,))], stage_timeout_s=TIMEOUT_S * 10)

        status = supervisor.states()[0]
        assert (status.state, status.works, status.pid is not None) == (State.FAILED, False, True)


async def test_a_process_that_may_end_is_not_started_again_after_exit_code_0_alone(supervisor: Supervisor) -> None:
    done = replace(child("done", "ready(); sys.exit(0)"), may_end=True)
    failing = replace(child("failing", "sys.exit(1)"), may_end=True)

    async with supervisor:
        await supervisor.start([done, failing])
        await reach(supervisor, is_in("done", State.STOPPED))
        await reach(supervisor, is_in("failing", State.CRASH_LOOPING))

        assert [status.restarts for status in supervisor.states() if status.name == "done"] == [0]


async def test_a_removed_process_has_ended_and_its_name_is_free(supervisor: Supervisor) -> None:
    async with supervisor:
        await supervisor.start([child("stays", WORK), child("goes", WORK)])
        before = pids(supervisor)

        async with watched(before[1:]):
            await in_time(supervisor.remove("goes"))
            await in_time(supervisor.remove("goes"))
        await supervisor.start([child("goes", WORK)])

        assert [status.name for status in supervisor.states()] == ["stays", "goes"]
        assert pids(supervisor)[0] == before[0] and pids(supervisor)[1] != before[1]
