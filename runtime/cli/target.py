"""Where a workflow is that a command talks to, and a connection to it.

A workflow is found by its name, its folder or its file, in the `.krt/run.json` of the current folder, of one above it
or of the workflow's own folder; `--nats` and `--stream` together need no file.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runtime import errors
from runtime.cli.run_file import RunFile, RunWorkflow, places_to_look
from runtime.settings import read_credentials_folder, redact
from runtime.spec import names

if TYPE_CHECKING:
    from runtime.bus.base import Bus

T = TypeVar("T")

# Seconds until a server that does not answer is reported. A local one answers in milliseconds.
CONNECT_LIMIT_S = 5.0

REMEDY = "start it with `krt run DIR`, or give --nats and --stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A workflow within reach. nats: addresses of servers, with commas. run and place: the local run, if it is one."""

    name: str
    nats: str
    stream: str
    run: RunWorkflow | None = None
    place: Path | None = None


class NotRunningError(errors.BusUnavailableError):
    """No such workflow runs here, or its server does not answer; the message says how to start it."""


def find(workflow: str, *, nats: str = "", stream: str = "", start: Path | None = None) -> Target:
    """Return the workflow of this name, folder or file. Raises NotRunningError, ConfigError.

    nats, stream: what `--nats` and `--stream` say. start: where the search begins, the current folder by default.
    """
    if _is_explicit(nats, stream):
        return Target(name=workflow, nats=nats, stream=stream)
    folder = _folder_of(workflow)
    for place in _places(folder, start):
        run = RunFile.read(place)
        name = _name_in(run, workflow, folder) if run else None
        if run is not None and name is not None:
            return _targets_of(run, place, only=name)[0]
    raise NotRunningError(f'no workflow "{workflow}" runs here: {REMEDY}')


def find_all(*, nats: str = "", stream: str = "", start: Path | None = None) -> list[Target]:
    """Return every workflow of the nearest run, or the one that the options name. Raises as `find` does."""
    if _is_explicit(nats, stream):
        return [Target(name=stream, nats=nats, stream=stream)]
    for place in _places(None, start):
        if (run := RunFile.read(place)) is not None:
            return _targets_of(run, place)
    raise NotRunningError(f"no workflow runs here: {REMEDY}")


def find_one(workflow: str = "", *, nats: str = "", stream: str = "") -> Target:
    """Return the workflow that `--workflow` names, or the only one of the nearest run. Raises as `find` does."""
    if workflow:
        return find(workflow, nats=nats, stream=stream)
    found = find_all(nats=nats, stream=stream)
    if len(found) > 1:
        running = ", ".join(each.name for each in found)
        raise errors.ConfigError(f"several workflows run here: {running}; name one with --workflow")
    return found[0]


@asynccontextmanager
async def connected(target: Target, *, name: str, with_stream: bool = True) -> AsyncIterator["Bus"]:
    """Connect to the target's server, and check that its stream is there, unless it may be gone.

    name: of the connection, in the server's monitoring. Raises NotRunningError, also for an outage inside the block.
    """
    from runtime.bus.nats import NatsBus  # after the arguments were checked: it takes a while to import

    try:
        bus = await NatsBus.connect(
            target.nats.split(","),
            name=name,
            credentials=read_credentials_folder(),
            inbox_prefix=names.inbox_prefix(target.stream, names.CLIENT),
            limit_s=CONNECT_LIMIT_S,
        )
        try:
            if with_stream:
                await bus.stream_state(target.stream)
            yield bus
        finally:
            await bus.close()
    except errors.NotFoundError as error:
        raise NotRunningError(f"there is no stream {target.stream} on {redact(target.nats)}: {REMEDY}") from error
    except errors.BusUnavailableError as error:
        raise NotRunningError(f'workflow "{target.name}" cannot be reached: {error}') from error


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine on a loop of its own, uvloop's where there is one."""
    import asyncio

    try:
        from uvloop import new_event_loop
    except ImportError:  # not made for Windows
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


def _is_explicit(nats: str, stream: str) -> bool:
    if bool(nats) != bool(stream):
        raise errors.ConfigError("give --nats and --stream together, or neither")
    return bool(nats)


def _folder_of(workflow: str) -> Path | None:
    """Return the folder that the text names, itself or by a file in it; None when it is only a name."""
    path = Path(workflow)
    if path.is_dir():
        return path.resolve()
    return path.resolve().parent if path.is_file() else None


def _places(folder: Path | None, start: Path | None) -> list[Path]:
    places = list(places_to_look(start or Path.cwd()))
    return places if folder is None or folder in places else [*places, folder]


def _name_in(run: RunFile, workflow: str, folder: Path | None) -> str | None:
    """Return the name under which the run has the workflow. A name wins over a folder that is called the same."""
    if workflow in run.workflows:
        return workflow
    if folder is None:
        return None
    return next((name for name, found in run.workflows.items() if Path(found.folder).resolve() == folder), None)


def _targets_of(run: RunFile, place: Path, *, only: str = "") -> list[Target]:
    if not run.is_alive():
        raise NotRunningError(f"the run of {place} has ended (process {run.pid} is gone): {REMEDY}")
    return [
        Target(name=name, nats=run.nats, stream=found.stream, run=found, place=place)
        for name, found in run.workflows.items()
        if only in ("", name)
    ]
