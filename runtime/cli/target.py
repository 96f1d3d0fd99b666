"""Where a workflow is that a command talks to, and a connection to it.

A workflow is found by its name, its folder or its file, in the `.krt/run.json` of the current folder, of one above it
or of the workflow's own folder; `--nats` and `--stream` together need no file. Where no run is alive, commands that can
do without one get a server of their own, on the store that the last run has left.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from runtime import errors
from runtime.cli.run_file import LastRun, RunFile, RunWorkflow, places_to_look
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
    """A workflow within reach. nats: addresses of servers, with commas. run and place: the local run, if it is one.

    store: of a run that has ended, which needs a server; nats is "" then.
    """

    name: str
    nats: str
    stream: str
    run: RunWorkflow | None = None
    place: Path | None = None
    store: Path | None = None


class NotRunningError(errors.BusUnavailableError):
    """No such workflow runs here, or its server does not answer; the message says how to start it."""


def find(workflow: str, *, nats: str = "", stream: str = "", start: Path | None = None, ended: bool = False) -> Target:
    """Return the workflow of this name, folder or file. Raises NotRunningError, ConfigError.

    nats, stream: what `--nats` and `--stream` say. start: where the search begins, the current folder by default.
    ended: where none is alive, take what one has left.
    """
    if _is_explicit(nats, stream):
        return Target(name=workflow, nats=nats, stream=stream)
    folder = _folder_of(workflow)
    for place, run in _runs(_places(folder, start), ended):
        if (name := _name_in(run.workflows, workflow, folder)) is not None:
            return _target(run, place, name)
    raise NotRunningError(f'no workflow "{workflow}" runs here: {REMEDY}')


def find_all(*, nats: str = "", stream: str = "", start: Path | None = None, ended: bool = False) -> list[Target]:
    """Return every workflow of the nearest run, or the one that the options name. Raises as `find` does.

    ended: where none is alive, take what the last one has left, which is one workflow.
    """
    if _is_explicit(nats, stream):
        return [Target(name=stream, nats=nats, stream=stream)]
    for place, run in _runs(_places(None, start), ended):
        newest = list(run.workflows)[-1:] if isinstance(run, LastRun) else run.workflows
        return [_target(run, place, name) for name in newest]
    raise NotRunningError(f"no workflow runs here: {REMEDY}")


def find_one(workflow: str = "", *, nats: str = "", stream: str = "", ended: bool = False) -> Target:
    """Return the workflow that `--workflow` names, or the only one of the nearest run. Raises as `find` does.

    ended: as for `find` and `find_all`.
    """
    if workflow:
        return find(workflow, nats=nats, stream=stream, ended=ended)
    found = find_all(nats=nats, stream=stream, ended=ended)
    if len(found) > 1:
        running = ", ".join(each.name for each in found)
        raise errors.ConfigError(f"several workflows run here: {running}; name one with --workflow")
    return found[0]


@asynccontextmanager
async def connected(target: Target, *, name: str, with_stream: bool = True) -> AsyncIterator["Bus"]:
    """Connect to the target's server, and check that its stream is there, unless it may be gone.

    A store without a server gets one that ends with the block. name: of the connection, in the server's monitoring.
    Raises NotRunningError, also for an outage inside the block, ServerError.
    """
    async with _addresses(target) as nats, _connection(target, nats, name) as bus:
        if with_stream:
            await bus.stream_state(target.stream)
        yield bus


@asynccontextmanager
async def _connection(target: Target, nats: str, name: str) -> AsyncIterator["Bus"]:
    from runtime.bus.nats import NatsBus  # after the arguments were checked: it takes a while to import

    try:
        bus = await NatsBus.connect(
            nats.split(","),
            name=name,
            credentials=read_credentials_folder(),
            inbox_prefix=names.inbox_prefix(target.stream, names.CLIENT),
            limit_s=CONNECT_LIMIT_S,
        )
        try:
            yield bus
        finally:
            await bus.close()
    except errors.NotFoundError as error:
        where = f"on {redact(nats)}" if target.store is None else f"in {target.store}"
        raise NotRunningError(f"there is no stream {target.stream} {where}: {REMEDY}") from error
    except errors.BusUnavailableError as error:
        raise NotRunningError(f'workflow "{target.name}" cannot be reached: {error}') from error


@asynccontextmanager
async def _addresses(target: Target) -> AsyncIterator[str]:
    """Give the addresses of the target's servers. Raises NotRunningError while another server has its store."""
    if target.store is None:
        yield target.nats
        return
    from runtime.cli.local_nats import embedded_nats

    try:
        async with embedded_nats(target.store) as server:
            typer.echo(f"no run of {target.name} is alive; reading what the last one left in {target.store}", err=True)
            yield server.url
    except errors.StoreInUseError as error:
        raise NotRunningError(
            f"{target.store} is in use, by a run that is about to start or to end, by one of another workflow, or by a "
            "command that reads it; try again when that is done"
        ) from error


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


def _runs(places: Sequence[Path], ended: bool) -> Iterator[tuple[Path, RunFile | LastRun]]:
    """Yield the runs of some places, nearest first, and then, if ended ones will do, what those have left."""
    for place in places:
        run = RunFile.read(place)
        # One that was killed leaves its file.
        if run is not None and (run.is_alive() or not ended):
            yield place, run
    for place in places if ended else ():
        if (last := LastRun.read(place)) is not None:
            yield place, last


def _name_in(workflows: Mapping[str, RunWorkflow], workflow: str, folder: Path | None) -> str | None:
    """Return the name under which a run has the workflow. A name wins over a folder that is called the same."""
    if workflow in workflows:
        return workflow
    if folder is None:
        return None
    return next((name for name, found in workflows.items() if Path(found.folder).resolve() == folder), None)


def _target(run: RunFile | LastRun, place: Path, name: str) -> Target:
    found = run.workflows[name]
    if isinstance(run, LastRun):
        store = place / run.store
        if not store.is_dir():
            raise NotRunningError(f'no run of "{name}" is alive, and its store {store} is gone: {REMEDY}')
        return Target(name=name, nats="", stream=found.stream, run=found, place=place, store=store)
    if not run.is_alive():
        raise NotRunningError(f"the run of {place} has ended (process {run.pid} is gone): {REMEDY}")
    return Target(name=name, nats=run.nats, stream=found.stream, run=found, place=place)
