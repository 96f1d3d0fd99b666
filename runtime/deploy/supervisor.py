"""Runs the processes of a workflow as children of this one, and keeps them running: what `krt run` does.

    async with Supervisor(on_line=LinePrinter(...)) as supervisor:
        await supervisor.start(plan)
        ...                                     # supervisor.states(), supervisor.restart("score")
                                                # leaving the block ends every process

Every child has a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone, and is killed by
the kernel when the supervisor dies. Its standard output and error are one stream of lines.

Readiness: a child of kind SIGNALLED finds the number of an open file descriptor in KRT_READY_FD. Once it does its work,
it writes b"ready\\n" there and closes it; or b"failed\\n" when it cannot, and goes on only to tell why.
"""

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from runtime.deploy.gpus import GpuPool
from runtime.deploy.process import Process, ReplicaStatus, RestartPolicy, State
from runtime.deploy.replica import Replica

log = logging.getLogger(__name__)

# Seconds that a process has to end by itself, for handlers to finish what they have begun.
STOP_GRACE_S = 30.0
# Seconds that a stage waits for the one before it. A process that hangs at its start must not keep the rest down.
STAGE_TIMEOUT_S = 30.0


class Supervisor:
    """The children of this process. To be used on one event loop, on the main thread: see `die_with_parent`."""

    def __init__(
        self,
        *,
        on_line: Callable[[str, str], None],
        command: Sequence[str] = (sys.executable, "-m", "runtime"),
        policy: RestartPolicy | None = None,
        gpus: GpuPool | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        on_line: called on the event loop with a replica's name and each line that it prints.
        command: what the arguments of every process follow. gpus: lent to the replicas that ask for some, each of
        which keeps its own over every restart; none are without a pool.
        """
        self._on_line = on_line
        self._command = tuple(command)
        self._policy = policy or RestartPolicy()
        self._gpus = gpus or GpuPool()
        # In the order of their start.
        self._replicas: dict[Replica, asyncio.Task[None]] = {}
        self._stopping = False
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> "Supervisor":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if not self._stopping:
                await self.stop()
        finally:
            # The group knows cancellations of its own making. Any other error of the block must not be wrapped by it,
            # for callers catch by class.
            if kind is asyncio.CancelledError:
                await self._tasks.__aexit__(kind, error, traceback)
            else:
                await self._tasks.__aexit__(None, None, None)

    async def start(self, processes: Iterable[Process], *, stage_timeout_s: float = STAGE_TIMEOUT_S) -> None:
        """Start the processes, stage by stage; `update` changes them later.

        A stage is over when each of its replicas works or has ended once, at the latest after `stage_timeout_s`. So
        one that crashes, or never becomes ready, does not keep the others down.
        """
        for _, stage in itertools.groupby(sorted(processes, key=_stage_of_process), key=_stage_of_process):
            if self._stopping:
                return
            replicas = [replica for process in stage for replica in self._start_replicas(process)]
            await self._wait_for_stage(replicas, stage_timeout_s)

    async def update(self, processes: Sequence[Process], *, grace_s: float = STOP_GRACE_S) -> None:
        """Make the processes those of a new plan, as `start` does; what is the same in both plans goes on running.

        A process that is gone or differs is ended first, and killed after `grace_s` seconds.
        """
        wanted = {process.name: process for process in processes}
        outdated = [replica for replica in self._replicas if wanted.get(replica.process.name) != replica.process]
        await self._end(outdated, asyncio.get_running_loop().time() + grace_s)
        self._forget(outdated)
        kept = {replica.process.name for replica in self._replicas}
        await self.start(process for process in processes if process.name not in kept)

    def amend(self, process: Process) -> None:
        """Let a process go on as it runs, and start it by this description from its next start on."""
        for replica in self._replicas:
            if replica.process.name == process.name:
                replica.process = process

    async def remove(self, name: str, *, grace_s: float = STOP_GRACE_S) -> None:
        """End a process and forget it, as `update` does with one that is gone; one that is not there is no error."""
        removed = [replica for replica in self._replicas if replica.process.name == name]
        await self._end(removed, asyncio.get_running_loop().time() + grace_s)
        self._forget(removed)

    def states(self) -> list[ReplicaStatus]:
        """Return the status of every replica, in the order of their start."""
        return [replica.status() for replica in self._replicas]

    async def wait_until(self, condition: Callable[[list[ReplicaStatus]], bool]) -> None:
        """Return as soon as the condition holds for the states; it is asked after every change. Cancelling is safe.

        Set a time limit around it: what is waited for may never come.
        """
        while not condition(self.states()):
            await self._changed.wait()

    async def restart(self, name: str, *, grace_s: float = STOP_GRACE_S) -> None:
        """End the replicas of a process and start them anew with a clean record; returns when they have been started.

        Works in every state, `failed` included. A replica that has not ended after `grace_s` seconds is killed.
        Raises ValueError when there is no such process.
        """
        replicas = [replica for replica in self._replicas if replica.process.name == name]
        if not replicas:
            raise ValueError(f"there is no process {name!r}")
        for replica in replicas:
            replica.request_restart()
        try:
            async with asyncio.timeout(grace_s):
                await self._wait_for_restart(replicas)
        except TimeoutError:
            for replica in replicas:
                if replica.restart_pending:
                    _kill(replica)
            await self._wait_for_restart(replicas)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End every process, the last stage first, and return when nothing is left running.

        Each is asked to end (SIGTERM), and killed when it is still there `grace_s` seconds after this call. A second
        call, while the first one waits, kills at once; so does cancelling.
        """
        patience_s = 0.0 if self._stopping else grace_s
        deadline_s = asyncio.get_running_loop().time() + patience_s
        self._stopping = True
        try:
            last_first = sorted(self._replicas, key=_stage_of_replica, reverse=True)
            for _, stage in itertools.groupby(last_first, key=_stage_of_replica):
                await self._end(list(stage), deadline_s)
        finally:
            for replica in self._replicas:
                replica.request_stop()
                replica.kill()

    def _start_replicas(self, process: Process) -> list[Replica]:
        replicas = [
            Replica(
                process,
                name,
                number=number,
                environment=self._gpus.lend(name, process.resources.gpu),
                command=self._command,
                policy=self._policy,
                on_line=self._on_line,
                on_change=self._note_change,
            )
            for number, name in enumerate(process.replica_names(), start=1)
        ]
        for replica in replicas:
            self._replicas[replica] = self._tasks.create_task(replica.run(), name=f"replica {replica.name}")
        return replicas

    async def _wait_for_stage(self, replicas: list[Replica], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_until(lambda _: not _names_of_starting(replicas))
        except TimeoutError:
            names = ", ".join(_names_of_starting(replicas))
            log.warning("still not ready after %g s: %s; going on without", timeout_s, names)

    async def _wait_for_restart(self, replicas: list[Replica]) -> None:
        await self.wait_until(lambda _: not any(replica.restart_pending for replica in replicas))

    async def _end(self, replicas: list[Replica], deadline_s: float) -> None:
        """Stop these replicas, and kill what is left of them at the deadline (time of the event loop)."""
        if not replicas:
            return
        for replica in replicas:
            replica.request_stop()
        ended = {self._replicas[replica] for replica in replicas}
        patience_s = max(deadline_s - asyncio.get_running_loop().time(), 0.0)
        _, left = await asyncio.wait(ended, timeout=patience_s)
        if not left:
            return
        for replica in replicas:
            if self._replicas[replica] in left:
                _kill(replica)
        await asyncio.wait(left)

    def _forget(self, ended: Iterable[Replica]) -> None:
        for replica in ended:
            if self._replicas.pop(replica, None) is not None:
                self._gpus.give_back(replica.name)
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _kill(replica: Replica) -> None:
    log.warning("%s has not ended by itself and is killed", replica.name, extra={"action": "process-killed"})
    replica.kill()


def _names_of_starting(replicas: list[Replica]) -> list[str]:
    return [replica.name for replica in replicas if replica.status().state is State.STARTING]


def _stage_of_process(process: Process) -> int:
    return process.stage


def _stage_of_replica(replica: Replica) -> int:
    return replica.process.stage
