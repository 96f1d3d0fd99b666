"""One run of a connector as a batch run would make it, and everything that it leaves.

It gets folders of its own and, as a command, a copy of the connector as its folder and a home of its own: what is
written there would stay behind in a real run. In a container all but the three folders goes with the container.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.batch.backend import Backend, Exit, Job, Running, worker_name
from runtime.batch.connector import OUTPUT_FILE
from runtime.batch.workspace import Workspace

PROGRAM = "connector.py"
# Seconds between the request to end a run whose time is over, and its end by force.
GRACE_S = 2.0
# Last lines of what a connector has said that are shown when it fails.
MAX_LINES = 10
# What may be written beside the three folders: a model may describe itself, and have temporary files.
BESIDE = {"input", "output", "log", "metadata.json", "tmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a run has ended. exit: None when its time was over. strays: what was written outside of its folders."""

    exit: Exit | None
    document: bytes | None
    strays: tuple[str, ...]
    said: str

    @property
    def code(self) -> int | None:
        return self.exit.code if self.exit else None

    @property
    def ending(self) -> str:
        if self.exit is None:
            return "it does not end in time; --timeout gives it more"
        ended = self.exit.detail if self.exit.code is None else f"it ends with exit code {self.exit.code}"
        return f"{ended}\n{self.said}" if self.said else ended


class Trials:
    """Runs the connector of a folder. place: for all that is written. image: run this one, "" for the command."""

    def __init__(self, folder: Path, backend: Backend, place: Path, *, image: str, timeout_s: float) -> None:
        self._folder = folder
        self._backend = backend
        self._place = place
        self._image = image
        self._timeout_s = timeout_s

    async def run(self, name: str, configuration: bytes) -> Trial:
        """Run it once. Raises PullError, ModelStartError, BackendUnavailableError, OSError."""
        place = self._place / name
        workspace = Workspace(place / "run")
        workspace.make(configuration, shared=False)
        job = self._job(name, place, workspace)
        before = _snapshot(place)
        said = bytearray()
        await self._backend.prepare(job)
        running = await self._backend.start(job, lambda _, piece: said.extend(piece))
        try:
            ended = await self._wait(running)
        finally:
            await running.remove()
        return Trial(
            exit=ended,
            document=_content(workspace.output / OUTPUT_FILE),
            strays=tuple(_strays(place, workspace, before)),
            said=_last_lines(bytes(said)),
        )

    def _job(self, name: str, place: Path, workspace: Workspace) -> Job:
        job = Job(
            run_id=f"connector-test-{name}",
            worker=worker_name(),
            input=workspace.input,
            output=workspace.output,
            log=workspace.log,
            metadata=workspace.metadata,
            image=self._image,
        )
        if self._image:
            return job
        folder, home = place / "connector", place / "home"
        shutil.copytree(self._folder, folder)
        home.mkdir()
        variables = {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        return replace(job, command=("python", PROGRAM), folder=folder, environment=variables)

    async def _wait(self, running: Running) -> Exit | None:
        """Return how the run has ended, None for one that was stopped when its time was over."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await running.wait()
        except TimeoutError:
            await running.stop(GRACE_S)
            return None


# Path -> what changes when it is written.
_Snapshot = dict[Path, tuple[int, int, int]]


def _snapshot(place: Path) -> _Snapshot:
    found: _Snapshot = {}
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            # A folder's time changes with what is in it, which is found by itself.
            changed_ns, size = (0, 0) if path.is_dir() else (status.st_mtime_ns, status.st_size)
            found[path] = (status.st_mode, changed_ns, size)
    return found


def _strays(place: Path, workspace: Workspace, before: _Snapshot) -> Iterator[str]:
    """Yield what was made or changed outside of the folders of the run, as paths below `place`."""
    for path, seen in sorted(_snapshot(place).items()):
        inside = path.relative_to(workspace.root).parts if path.is_relative_to(workspace.root) else ()
        if before.get(path) != seen and not (inside and inside[0] in BESIDE):
            yield path.relative_to(place).as_posix()


def _content(file: Path) -> bytes | None:
    """Return what is in a file, None for one that is not there, or no file of its own."""
    return file.read_bytes() if file.is_file() and not file.is_symlink() else None


def _last_lines(said: bytes) -> str:
    lines = said.decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-MAX_LINES:])
