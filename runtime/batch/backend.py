"""What runs a packaged model: the contract of the backends `command` (a process) and `docker` (a container).

    prepared = await backend.prepare(job)            # the version of the model is known, nothing runs yet
    running = await backend.start(job, on_output)
    ended = await running.wait()                     # or `await running.stop(grace_s)` from elsewhere
    await running.remove()                           # after every ending: nothing of the run is left

One suite of tests, `test/conformance/batch`, holds for both.
"""

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtime.batch.processes import start_time

# Labels of a container, and variables of a process: whose it is, so that the next worker finds what a dead one left.
RUN_LABEL, WORKER_LABEL = "krt.run", "krt.worker"
RUN_VARIABLE, WORKER_VARIABLE = "KRT_BATCH_RUN", "KRT_BATCH_WORKER"

# Where a model in a container has its folders.
FOLDERS = {"input": "/data/input", "output": "/data/output", "log": "/data/log"}
# What a model in Python needs for its output to be seen at once.
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}

# Name of the stream, `stdout` or `stderr`, and a piece of it as it was written. Called on the loop; it may not block.
OnOutput = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What one run may use; 0 is no limit, but for `gpu`.

    cpu: cores. pids: processes and threads. gpu: how many; 0 hides them. file_bytes: of one file that a command writes;
    of a container it is not enforced. network: `none`, or one of the engine; a command has the network of its worker.
    """

    cpu: float = 0.0
    memory_bytes: int = 0
    pids: int = 0
    gpu: int = 0
    file_bytes: int = 0
    network: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt to run a packaged model: an image, or a command.

    command: program and arguments; of an image, what it is given in place of its own. arguments: added to them. In both
    `{input}`, `{output}`, `{log}` and `{metadata}` become paths as the model sees them. The folders exist. metadata: a
    file that is there after the end if the model has written one. environment: beside what every model gets.
    folder: the current one of a command, None for that of the run. version: of the model, "" if only the backend knows.
    worker: who runs it, see `worker_name`.
    """

    run_id: str
    worker: str
    input: Path
    output: Path
    log: Path
    metadata: Path
    image: str = ""
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    limits: JobLimits = JobLimits()
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What will run. digest: `sha256:…` of the image, or of the command and its files. labels: of the image."""

    version: str
    digest: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a model ended: `code` is None when the signal `signal` ended it. detail: a sentence, "" for code 0."""

    code: int | None
    signal: str = ""
    out_of_memory: bool = False
    detail: str = ""


class Running(Protocol):
    """A model that was started; from then on its worker owes it `remove`."""

    async def wait(self) -> Exit:
        """Return how it ended, once nothing of it runs any more and all its output was handed over.

        Processes that the model leaves behind are ended with it. Cancelling changes nothing; it may be called again.
        Raises BackendUnavailableError when the engine does not say any more what became of the model.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Ask it to end (SIGTERM), end it and all its processes by force after `grace_s`; returns when it has ended."""
        ...

    async def remove(self) -> None:
        """Remove all that is left of it but its folders, by force if it still runs. May be called again."""
        ...


class Backend(Protocol):
    """Runs models. What it needs (a daemon, a registry) is looked for at each call: BackendUnavailableError passes."""

    async def prepare(self, job: Job) -> Prepared:
        """Make sure that the model is here, and tell its version. Raises PullError, BackendUnavailableError."""
        ...

    async def start(self, job: Job, on_output: OnOutput) -> Running:
        """Start the model, after the end of what an earlier attempt of this run may have left on this host.

        Cancelling ends what was started. Raises ModelStartError, BackendUnavailableError.
        """
        ...

    async def recover(self, worker: str) -> None:
        """End and remove what dead workers of this host have left. worker: this one's name, which is not touched.

        Call it before the first run. Raises BackendUnavailableError.
        """
        ...


def with_places(parts: Iterable[str], places: Mapping[str, str]) -> list[str]:
    """Return parts of a command with `{input}`, `{output}`, `{log}`, `{metadata}` replaced; other braces stay."""
    filled = list(parts)
    for name, place in places.items():
        filled = [part.replace(f"{{{name}}}", place) for part in filled]
    return filled


def worker_name() -> str:
    """Return the name of this process as a worker: `host/pid/start time`, which no later process can bear."""
    return f"{socket.gethostname()}/{os.getpid()}/{start_time(os.getpid())}"


def is_gone(worker: str) -> bool:
    """Say whether a worker was of this host, and its process exists no more; of other hosts nothing is known."""
    host, _, process = worker.partition("/")
    pid, _, started = process.partition("/")
    return host == socket.gethostname() and pid.isdecimal() and str(start_time(int(pid))) != started
