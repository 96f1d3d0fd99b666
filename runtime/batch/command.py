"""The backend `command`: a packaged model as plain processes of this host (Linux), without any daemon.

Every run has a supervisor of its own, which ends all that the model has started, and ends itself when its worker is
gone (`supervisor.py`). This keeps runs apart and within limits, but no hostile code in: that takes a container.
"""

import asyncio
import contextlib
import logging
import marshal
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from runtime.batch import supervisor
from runtime.batch.backend import (
    RUN_VARIABLE,
    UNBUFFERED,
    WORKER_VARIABLE,
    Exit,
    Job,
    OnOutput,
    Prepared,
    is_gone,
    with_places,
)
from runtime.batch.content import ContentDigests
from runtime.batch.output_pipe import OutputPipe
from runtime.batch.processes import kill_marked
from runtime.children import describe_exit
from runtime.errors import BackendUnavailableError, ModelStartError, PullError
from runtime.gpus import GPU_VARIABLES, visible_gpus
from runtime.workers import scrubbed

log = logging.getLogger(__name__)

# Seconds, beyond the grace, in which a supervisor ends everything before it is taken for stuck itself.
PATIENCE_S = supervisor.KILL_S + 2.0
_SUPERVISOR_FOLDER = os.path.dirname(supervisor.__file__)
# How the output of a model is told apart, in the order of its file descriptors.
STREAMS = ("stdout", "stderr")


class CommandBackend:
    """Starts commands. On PATH, the worker's own Python comes first."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """environ: what models may see of it is what `workers.scrubbed` leaves."""
        self._environ = scrubbed(environ)
        path = self._environ.get("PATH", os.defpath)
        self._environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), path))
        self._gpus = visible_gpus(environ)
        self._digests = ContentDigests()
        self._next_core = 0

    async def prepare(self, job: Job) -> Prepared:
        if sys.platform != "linux":
            raise BackendUnavailableError("the backend 'command' needs Linux; use 'docker' here")
        if job.limits.gpu > len(self._gpus):
            raise BackendUnavailableError(f"the run needs {job.limits.gpu} GPUs, and there are {len(self._gpus)}")
        argv, folder = self._argv(job), _folder(job)
        program = self._program(argv[0] if argv else "", folder, self._environment(job)["PATH"])
        digest = await asyncio.to_thread(self._digests.of_command, program, [*job.command, *job.arguments], folder)
        return Prepared(version=job.version or digest, digest=digest)

    async def start(self, job: Job, on_output: OnOutput) -> "CommandRun":
        (job.input.parent / "tmp").mkdir(exist_ok=True)
        order = {
            "argv": self._argv(job),
            "environment": self._environment(job),
            "folder": str(_folder(job)),
            "memory_bytes": job.limits.memory_bytes,
            "pids": job.limits.pids,
            "file_bytes": job.limits.file_bytes,
            "cores": self._cores(job.limits.cpu),
        }
        run = await CommandRun.spawn(job, on_output)
        try:
            await run.begin(marshal.dumps(order))
        except BaseException:
            await run.abandon()
            raise
        return run

    async def recover(self, worker: str) -> None:
        """A supervisor ends with its worker: this finds what is left where somebody has killed both."""
        killed = await asyncio.to_thread(kill_marked, WORKER_VARIABLE, lambda name: name != worker and is_gone(name))
        if killed:
            log.warning("killed %s processes that dead workers have left", killed, extra={"action": "run-recover"})

    def _argv(self, job: Job) -> list[str]:
        places = {"input": job.input, "output": job.output, "log": job.log, "metadata": job.metadata}
        return with_places((*job.command, *job.arguments), {name: str(path) for name, path in places.items()})

    def _environment(self, job: Job) -> dict[str, str]:
        gpus = ",".join(self._gpus[: job.limits.gpu])
        return {
            **self._environ,
            **UNBUFFERED,
            **dict.fromkeys(GPU_VARIABLES, gpus),
            # What a model forgets to remove goes with the folder of its run.
            "TMPDIR": str(job.input.parent / "tmp"),
            "MODEL_INPUT_DIR": str(job.input),
            "MODEL_OUTPUT_DIR": str(job.output),
            "MODEL_RUNNER_LOG_DIR": str(job.log),
            **job.environment,
            RUN_VARIABLE: job.run_id,
            WORKER_VARIABLE: job.worker,
        }

    def _program(self, name: str, folder: Path, path: str) -> Path:
        """Return the file that will be executed. Raises PullError."""
        found = shutil.which(folder / name if "/" in name else name, path=path)
        if not name or found is None:
            raise PullError(f"there is no program '{name}' that can be executed, in {folder} or on PATH")
        return Path(found)

    def _cores(self, cpu: float) -> list[int]:
        """Return the cores for the next run, each time others; none where it may use all of them."""
        available = sorted(os.sched_getaffinity(0))
        count = math.ceil(cpu)
        if not 0 < count < len(available):
            return []
        first = self._next_core
        self._next_core = (first + count) % len(available)
        return [available[(first + place) % len(available)] for place in range(count)]


class CommandRun:
    """See `Running`. The supervisor and this object speak in lines, described there."""

    def __init__(
        self,
        job: Job,
        process: asyncio.subprocess.Process,
        pipes: Sequence[OutputPipe],
        channel: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Made by `spawn`."""
        self._job = job
        self._process = process
        self._pipes = pipes
        self._reader, self._writer = channel
        self._ended: asyncio.Task[Exit] | None = None

    @classmethod
    async def spawn(cls, job: Job, on_output: OnOutput) -> "CommandRun":
        """Start the supervisor, which waits for its order. Raises BackendUnavailableError."""
        pipes = [await OutputPipe.open(partial(on_output, name)) for name in STREAMS]
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", supervisor.COMMAND, _SUPERVISOR_FOLDER, str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=pipes[0].write_fd,
                stderr=pipes[1].write_fd,
                pass_fds=[theirs.fileno()],
                env={},
                start_new_session=True,
            )  # fmt: skip
        except BaseException as error:
            ours.close()
            for pipe in pipes:
                pipe.close()
            if isinstance(error, OSError):
                raise BackendUnavailableError(f"no process can be started here: {error}") from error
            raise
        finally:
            theirs.close()
            for pipe in pipes:
                pipe.close_write_end()
        return cls(job, process, pipes, await asyncio.open_connection(sock=ours))

    async def begin(self, order: bytes) -> None:
        """Have the model started. Raises ModelStartError."""
        self._writer.write(b"%d\n" % len(order) + order)
        word, _, rest = (await self._read_line()).partition(" ")
        if word != "started":
            raise ModelStartError(f"{self._job.command[0]}: {rest or 'its supervisor has ended'}")
        self._ended = asyncio.create_task(self._watch(), name=f"run {self._job.run_id}")

    async def abandon(self) -> None:
        """Let go of a run that has not begun: without its channel, the supervisor ends what it may have started."""
        self._writer.close()
        for pipe in self._pipes:
            pipe.close()
        await self._process.wait()

    async def wait(self) -> Exit:
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float) -> None:
        assert self._ended is not None
        if self._ended.done():
            return
        self._writer.write(f"stop {grace_s}\n".encode())
        try:
            async with asyncio.timeout(grace_s + PATIENCE_S):
                await self.wait()
        except TimeoutError:  # the model can stop its supervisor: they are of one user
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self.wait()

    async def remove(self) -> None:
        await self.stop(0.0)

    async def _watch(self) -> Exit:
        line = await self._read_line()
        if not line:
            # Of a supervisor that was killed. The model goes with it, but what that has started does not.
            await asyncio.to_thread(kill_marked, RUN_VARIABLE, self._job.run_id.__eq__)
        await self._process.wait()
        self._writer.close()
        for pipe in self._pipes:
            await pipe.drain()
        return _exit(line, self._job)

    async def _read_line(self) -> str:
        """Return a line of the supervisor, "" if it has ended."""
        try:
            return (await self._reader.readline()).decode().rstrip("\n")
        except ConnectionResetError:
            return ""


def _folder(job: Job) -> Path:
    return job.folder or job.input.parent


def _exit(line: str, job: Job) -> Exit:
    """Return how the model has ended. line: `ended STATUS REASON` of the supervisor, "" for none."""
    if not line:
        return Exit(
            code=None, signal=signal.SIGKILL.name, detail="the supervisor of the run was killed, and the run with it"
        )
    _, status, reason = line.split(" ")
    code = os.waitstatus_to_exitcode(int(status))
    if code >= 0 and reason != "memory":
        return Exit(code=code, detail=describe_exit(code) if code else "")
    return Exit(
        code=None, signal=describe_exit(code), out_of_memory=reason == "memory", detail=_detail(code, reason, job)
    )


def _detail(code: int, reason: str, job: Job) -> str:
    if reason == "memory":
        return f"out of memory: more than the {job.limits.memory_bytes} bytes that it may use"
    if reason == "pids":
        return f"more than the {job.limits.pids} processes and threads that it may have"
    ended = f"ended by {describe_exit(code)}"
    if code == -signal.SIGKILL and not reason:
        return f"{ended}, which the runner did not send; the kernel does when memory runs out"
    return ended
