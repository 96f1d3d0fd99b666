"""One child process, started again when it ends: take its lines, hear that it is ready, decide about its next start.

Which processes there are, and in which order they start and end, is the supervisor's.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from runtime.children import die_with_parent
from runtime.deploy.printed import Printed
from runtime.deploy.process import (
    CONFIGURATION_EXIT_CODE,
    WORKING,
    Process,
    Readiness,
    ReplicaStatus,
    RestartPolicy,
    RestartRecord,
    State,
    describe_exit,
)
from runtime.line_pipe import LinePipe

log = logging.getLogger(__name__)

# What the supervisor and its children agree on; see supervisor.py.
READY_VARIABLE = "KRT_READY_FD"
READY_LINE = "ready"
FAILED_LINE = "failed"
# Tells a child which replica of its process it is, from 1.
REPLICA_VARIABLE = "KRT_REPLICA"

# Exit code of a command that could not be started at all, as shells have it.
CANNOT_START_EXIT_CODE = 127


class Replica:
    """One replica of a process. `run` does the work; the other methods return at once and are heard by it."""

    def __init__(
        self,
        process: Process,
        name: str,
        *,
        number: int,
        environment: Mapping[str, str],
        command: Sequence[str],
        policy: RestartPolicy,
        on_line: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        """Prepare. environment: what this replica has beyond its process's own."""
        self.process = process
        self.name = name
        self._number = number
        self._own_environment = environment
        self._command = [*command, *process.arguments]
        self._printed = Printed(partial(on_line, name))
        self._on_change = on_change
        self._record = RestartRecord(process.policy or policy)
        self._state = State.STARTING
        self._child: asyncio.subprocess.Process | None = None
        self._starts = 0
        self._last_exit: int | None = None
        # What it said of its last end, and whether that was the same as the one before.
        self._last_error = ""
        self._ended_as_before = False
        self._stop_requested = False
        self._restart_requested = False
        # Ends a pause between two starts.
        self._woken = asyncio.Event()

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            name=self.name,
            process=self.process.name,
            state=self._state,
            pid=self._child.pid if self._child is not None else None,
            restarts=max(self._starts - 1, 0),
            last_exit=self._last_exit,
            last_error=self._why_down(),
        )

    @property
    def restart_pending(self) -> bool:
        """Say whether a restart was requested that has not been done, and still will be."""
        return self._restart_requested and self._state is not State.STOPPED

    async def run(self) -> None:
        """Keep the process running until a stop is requested, or it ends for good. Cancelling it kills the process."""
        try:
            while not self._stop_requested:
                exit_code, lived_s = await self._run_once()
                if exit_code == 0 and self.process.may_end and not self._restart_requested:
                    return
                if not self._stop_requested and not self._restart_requested:
                    await self._pause(exit_code, lived_s)
        finally:
            self._enter(State.STOPPED)

    def request_stop(self) -> None:
        """Ask the process to end, and do not start it again."""
        self._stop_requested = True
        self._woken.set()
        self._signal_child(signal.SIGTERM)

    def request_restart(self) -> None:
        """Ask the process to end if it runs, and start it at once with a clean record."""
        self._restart_requested = True
        self._record.forget()
        self._printed.forget()
        self._woken.set()
        self._signal_child(signal.SIGTERM)

    def kill(self) -> None:
        """End the process, if it runs, without asking it."""
        self._signal_child(signal.SIGKILL)

    async def _run_once(self) -> tuple[int, float]:
        """Run the process to its end, and return its exit code and the seconds it lived."""
        self._restart_requested = False
        self._woken.clear()
        self._starts += 1
        self._printed.begin()
        # Before there is a child: a quick one is ready before the call that starts it has returned.
        self._enter(State.CRASH_LOOPING if self._record.crash_looping else State.STARTING)
        loop = asyncio.get_running_loop()
        started_s, exit_before = loop.time(), self._last_exit
        output, readiness = LinePipe(self._printed.take), LinePipe(self._take_readiness)
        try:
            self._last_exit = await self._run_child(output, readiness)
        finally:
            output.close()
            readiness.close()
        self._ended_as_before = self._printed.end() and self._last_exit == exit_before
        # One that was killed had no time to say why.
        self._last_error = self._printed.error if self._last_exit > 0 else ""
        return self._last_exit, loop.time() - started_s

    async def _run_child(self, output: LinePipe, readiness: LinePipe) -> int:
        try:
            self._child = child = await self._spawn(output.write_fd, readiness.write_fd)
        except OSError as err:
            self._printed.take(f"cannot be started: {err}")
            return CANNOT_START_EXIT_CODE
        finally:
            output.close_write_end()
            readiness.close_write_end()
        self._note_start(child.pid)
        if self._stop_requested or self._restart_requested:
            # The request came before there was a process to signal.
            self.kill()
        try:
            return await child.wait()
        finally:
            self._child = None
            # What the process has left behind in its group, and the process itself when this task is cancelled.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()

    async def _spawn(self, output_fd: int, ready_fd: int) -> asyncio.subprocess.Process:
        # Not asyncio's own pipes: with them `wait` returns only when every grandchild has closed its copy too.
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=subprocess.STDOUT,
            pass_fds=[ready_fd],
            env=self._environment(ready_fd),
            start_new_session=True,
            # Not SIGTERM: nobody is left who would enforce a grace period.
            preexec_fn=die_with_parent(signal.SIGKILL),
        )

    def _environment(self, ready_fd: int) -> dict[str, str]:
        told = {READY_VARIABLE: str(ready_fd), REPLICA_VARIABLE: str(self._number)}
        own = {**self.process.environment, **self._own_environment}
        return {**os.environ, "PYTHONUNBUFFERED": "1", **own, **told}

    def _note_start(self, pid: int) -> None:
        log.info("%s started (process %d)", self.name, pid, extra={"action": "process-started"})
        if self.process.ready is Readiness.STARTED:
            self._enter(State.RUNNING)
        else:
            self._on_change()  # its pid is known now

    async def _pause(self, exit_code: int, lived_s: float) -> None:
        """Return when the process, which has ended by itself, is to be started again."""
        how = f"{describe_exit(exit_code)}{' as before' if self._ended_as_before else ''}"
        if exit_code in self._record.policy.final_exit_codes:
            wrong = exit_code == CONFIGURATION_EXIT_CODE
            reason = "its configuration or its code is wrong" if wrong else "another start would end the same way"
            await self._fail(how, reason)
            return
        was_crash_looping = self._record.crash_looping
        delay_s = self._record.note_exit(at_s=asyncio.get_running_loop().time(), lived_s=lived_s)
        if self._record.crash_looping and self._record.policy.gives_up:
            await self._fail(how, "its restarts are used up")
            return
        self._enter(State.CRASH_LOOPING if self._record.crash_looping else State.BACKOFF)
        if self._record.crash_looping and not was_crash_looping:
            self._report_failure(how, f"it does so again and again, and is now tried every {delay_s:g} s")
        else:
            extra = {"action": "process-ended"}
            log.warning("%s ended with %s; it is started again in %.1f s", self.name, how, delay_s, extra=extra)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._woken.wait()

    async def _fail(self, how: str, reason: str) -> None:
        """Stay down until somebody asks for a restart, or for the end."""
        self._enter(State.FAILED)
        self._report_failure(how, f"{reason}, so it stays down until it is restarted")
        await self._woken.wait()

    def _report_failure(self, how: str, consequence: str) -> None:
        said = f": {self._last_error}" if self._last_error else ""
        extra = {"action": f"process-{self._state}"}
        log.error("%s ended with %s; %s%s", self.name, how, consequence, said, extra=extra)

    def _why_down(self) -> str:
        if self._state in (*WORKING, State.STOPPED):
            return ""
        if self._child is not None and self._printed.error:
            return self._printed.error
        return self._last_error or ("" if self._last_exit is None else describe_exit(self._last_exit))

    def _enter(self, state: State) -> None:
        self._state = state
        if state in WORKING:
            self._printed.forget()
        self._on_change()

    def _signal_child(self, signal_number: signal.Signals) -> None:
        """Send the signal to the process; SIGKILL goes to its whole group."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if signal_number is signal.SIGKILL:
                os.killpg(self._child.pid, signal.SIGKILL)
            else:
                self._child.send_signal(signal_number)

    def _take_readiness(self, line: str) -> None:
        if line == FAILED_LINE:
            log.error("%s has failed and stays to tell why", self.name, extra={"action": "process-failed"})
            self._enter(State.FAILED)
        elif line == READY_LINE and self._state is not State.READY:
            log.info("%s is ready", self.name, extra={"action": "process-ready"})
            self._enter(State.READY)
