"""`krt runs`: batch runs of a workflow, to be asked for, watched, ended, and their files fetched."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import JsonOption, NatsOption, NodeOption, StreamOption, WorkflowOption
from runtime.clock import SystemClock
from runtime.spec import names

if TYPE_CHECKING:
    from runtime.batch.records import RunRecords
    from runtime.batch.summaries import Listed
    from runtime.bus.base import Bus

T = TypeVar("T")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, as `krt runs ls` shows it.")]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A workflow within reach, with the records of its runs."""

    bus: "Bus"
    stream: str

    @cached_property
    def records(self) -> "RunRecords":
        from runtime.batch.records import RunRecords

        return RunRecords(self.bus, self.stream, SystemClock())


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(
        help="Ask for batch runs, watch and end them, fetch their files; what only reads works after a local run, too.",
        no_args_is_help=True,
    )
    group.command("submit")(submit)
    group.command("ls")(list_runs)
    group.command("show")(show)
    group.command("logs")(logs)
    group.command("cancel")(cancel)
    group.command("artifacts")(artifacts)
    group.command("download")(download)
    group.command("retry-store")(retry_store)
    app.add_typer(group, name="runs")


def submit(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW[/NODE]", help="Workflow; its only batch node, or one.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON of the configuration, or -.")],
    request_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="Id of the request; the same one again makes no second run.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all runs have ended, and print their results.")
    ] = False,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Ask a node for runs, and print the id of each. The file is a configuration, or a request with several models.

    Ctrl-C while it waits ends the command, and no run.

    Exit codes: 0 stored (with --wait: all complete), 1 with --wait: some are not complete, 2 wrong arguments, 4 the
    request is invalid, 5 not running, not reachable or full, 130 ended by Ctrl-C.

    Example: krt runs submit epidemic/sir job.json --wait
    """
    from runtime.cli import runs_submit

    request = runs_submit.Request(text=runs_submit.read_text(file), id=request_id, wait=wait)
    found, node = runs_submit.find_node(workflow, nats, stream)
    raise typer.Exit(target.run(lambda: _with_place(found, lambda place: runs_submit.ask(place, node, request))))


def list_runs(
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only those in this state, as failed.")] = "",
    node: NodeOption = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, metavar="N", help="The newest N; 0 for all.")] = 100,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """List runs, the newest first; with --json one record a line: `runId` is the run's, `id` that of its request.

    Exit codes: 0 listed, 1 the workflow has no batch nodes, 2 wrong arguments, 5 not running or not reachable.

    Example: krt runs ls --state failed
    """
    from runtime.batch.states import RunState
    from runtime.batch.summaries import list_all

    if state and state not in [each.value for each in RunState]:
        raise errors.ConfigError(f'"{state}" is no state; use {", ".join(RunState)}')

    async def main(place: Place) -> None:
        now_ms = SystemClock().time_ns() // 1_000_000
        every = await list_all(await place.bus.key_value(names.runs_bucket(place.stream)), now_ms)
        found = [each for each in every if state in ("", each.summary.state) and node in ("", each.summary.node)]
        shown = found[:limit] if limit else found
        _print_runs(shown, as_json, now_ms)
        if len(shown) < len(found):
            typer.echo(f"{len(found) - len(shown)} more, older ones; --limit 0 lists all", err=True)

    _run(workflow, nats, stream, main, ended=True)


def show(
    run_id: RunArgument,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Show everything that is known of a run; with --json its record.

    Exit codes: 0 shown, 1 there is no such run, 2 wrong arguments, 5 not running or not reachable.

    Example: krt runs show 0f8d2b7a_sir_0
    """

    async def main(place: Place) -> None:
        from runtime.cli.runs_text import run_text

        record = (await place.records.read(run_id)).record
        typer.echo(record.encode().decode() if as_json else run_text(record, place.records.now_ms()))

    _run(workflow, nats, stream, main, ended=True)


def logs(
    run_id: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what comes until the run has ended.")] = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Print what a run has written, its two streams on the two of this command; -f follows one that has not ended.

    What it wrote before -f is not told again until it has ended. `krt runs download RUN log` has all of it with times.

    Exit codes: 0 printed, 1 there is no such run or no log, or it has not ended and there is no -f, 2 wrong arguments,
    5 not running or not reachable, 130 ended by Ctrl-C.

    Example: krt runs logs 0f8d2b7a_sir_0 -f
    """

    async def main(place: Place) -> None:
        from runtime.cli import runs_files, runs_follow

        kept = await place.records.find(run_id) if follow else await place.records.read(run_id)
        if kept is not None and kept.record.state.is_final:
            async with runs_files.opened(place.bus, place.stream, kept.record) as files:
                await runs_follow.print_stored(files)
        elif follow:
            runs_follow.print_change(await runs_follow.follow_output(place.records, run_id))
        else:
            raise errors.NotFoundError(f"run '{run_id}' has not ended, and its log is not stored yet; follow it by -f")

    _run(workflow, nats, stream, main, ended=not follow)


def cancel(
    run_id: RunArgument, workflow: WorkflowOption = "", nats: NatsOption = "", stream: StreamOption = ""
) -> None:
    """End a run, and wait until it has ended. What it has written is kept.

    Exit codes: 0 cancelled, 1 there is no such run, or it has ended by itself, 2 wrong arguments, 5 not running or not
    reachable.

    Example: krt runs cancel 0f8d2b7a_sir_0
    """

    async def main(place: Place) -> int:
        from runtime.batch.states import RunState
        from runtime.cli import runs_follow

        await place.records.cancel(run_id)
        (ended,) = await runs_follow.wait_for_all(place.records, [run_id], runs_follow.print_change)
        return exits.OK if ended.state is RunState.CANCELLED else exits.FAILED

    raise typer.Exit(_run(workflow, nats, stream, main))


def artifacts(
    run_id: RunArgument,
    as_json: JsonOption = False,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """List the stored files of a run; with --json one line each.

    Exit codes: 0 listed, 1 there is no such run, or it has stored nothing, 2 wrong arguments, 5 not running or not
    reachable.

    Example: krt runs artifacts 0f8d2b7a_sir_0
    """

    async def main(place: Place) -> None:
        from runtime.cli import runs_files, runs_text

        record = (await place.records.read(run_id)).record
        async with runs_files.opened(place.bus, place.stream, record) as files:
            found = await files.list()
        lines = (each.model_dump_json(by_alias=True) for each in found) if as_json else runs_text.artifact_lines(found)
        typer.echo("\n".join(lines))

    _run(workflow, nats, stream, main, ended=True)


def download(
    run_id: RunArgument,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="One file, a folder or a pattern: output/*.csv.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to; a folder named as the run.")
    ] = None,
    workflow: WorkflowOption = "",
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Fetch the stored files of a run, each checked against its SHA-256. Files that are there already are not fetched.

    Exit codes: 0 fetched, 1 there is no such run or file, or it is damaged, 2 wrong arguments, 5 not running or not
    reachable, 130 ended by Ctrl-C.

    Example: krt runs download 0f8d2b7a_sir_0 output -o results
    """

    async def main(place: Place) -> None:
        from runtime.cli import runs_files
        from runtime.cli.runs_download import download_all

        record = (await place.records.read(run_id)).record
        async with runs_files.opened(place.bus, place.stream, record) as files:
            wanted = runs_files.chosen(await files.list(), path)
            await download_all(files, wanted, output or Path(run_id))

    _run(workflow, nats, stream, main, ended=True)


def retry_store(
    run_id: RunArgument, workflow: WorkflowOption = "", nats: NatsOption = "", stream: StreamOption = ""
) -> None:
    """Store the files of a run again whose store did not take them; the worker that has them has to be alive.

    Exit codes: 0 stored, 1 there is no such run, or nothing to store, or the store does not take it, 2 wrong arguments,
    5 not running or not reachable.

    Example: krt runs retry-store 0f8d2b7a_sir_0
    """

    async def main(place: Place) -> int:
        from runtime.batch.states import Reason
        from runtime.cli import runs_follow

        before = (await place.records.read(run_id)).record
        await place.records.store_again(run_id)
        async for record in runs_follow.changes(place.records, run_id, after=before):
            ended = record
        runs_follow.print_change(ended)
        return exits.FAILED if ended.reason is Reason.STORE_FAILED else exits.OK

    raise typer.Exit(_run(workflow, nats, stream, main))


def _print_runs(runs: "Sequence[Listed]", as_json: bool, now_ms: int) -> None:
    from runtime.cli.runs_text import run_lines

    if as_json:
        lines = [each.data.decode() for each in runs]
    else:
        lines = list(run_lines([each.summary for each in runs], now_ms)) if runs else ["there are no such runs"]
    if lines:
        typer.echo("\n".join(lines))


# --- where ---


def _run(
    workflow: str, nats: str, stream: str, main: Callable[[Place], Coroutine[Any, Any, T]], *, ended: bool = False
) -> T:
    """Find the workflow, and run a command on it. Raises NotRunningError, ConfigError and what `main` raises.

    ended: as for `target.find`.
    """
    found = target.find_one(workflow, nats=nats, stream=stream, ended=ended)
    return target.run(lambda: _with_place(found, main))


async def _with_place(found: target.Target, main: Callable[[Place], Coroutine[Any, Any, T]]) -> T:
    async with target.connected(found, name="krt runs") as bus:
        try:
            return await main(Place(bus=bus, stream=found.stream))
        except errors.NotFoundError as error:
            # Of a run, a node or a file: inside of the block it would be taken for the stream's.
            missing = error
    raise missing
