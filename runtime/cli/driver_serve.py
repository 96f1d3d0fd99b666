"""`krt driver serve`: a place for drivers beside a workflow that runs elsewhere."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli import exits, target
from runtime.cli.options import NatsOption, StreamOption, WorkflowArgument

if TYPE_CHECKING:
    from runtime.cli.driver_host import HostedWorkflow


def serve(
    workflow: WorkflowArgument,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="DIR", help="Folder of the workflow, for drivers of its own.", file_okay=False
        ),
    ] = None,
    nats: NatsOption = "",
    stream: StreamOption = "",
) -> None:
    """Run the drivers that `krt driver add` asks for, until Ctrl-C ends them; `krt run` does so, too.

    With --nats and --stream the workflow may run on other machines. Several of these share the requests.

    Exit codes: 0 stopped in order, 2 wrong arguments, 5 not running or not reachable.

    Example: krt driver serve hello --nats nats://nats:4222 --stream local_dev_hello --folder workflows/hello
    """
    found = target.find(workflow, nats=nats, stream=stream)
    # Not uvloop: children are started here.
    asyncio.run(_serve(hosted_workflow(found, folder or _folder(found, workflow))))
    raise typer.Exit(exits.OK)


def _folder(found: target.Target, workflow: str) -> Path:
    if found.run is not None:
        return Path(found.run.folder)
    path = Path(workflow)
    return path if path.is_dir() else path.parent


def hosted_workflow(found: target.Target, folder: Path) -> "HostedWorkflow":
    """Return what drivers are told. Without a workflow file in the folder they do not know where answers are stored."""
    from runtime.cli.driver_host import HostedWorkflow
    from runtime.deploy.drivers import output_subjects
    from runtime.spec.load import load_report

    loaded = load_report(folder, workflow=found.name).workflow
    return HostedWorkflow(
        name=loaded.name if loaded else found.name,
        stream=found.stream,
        output_subjects=output_subjects(loaded, found.stream) if loaded else (),
        nats_servers=tuple(found.nats.split(",")),
        folder=str(folder.absolute()),
    )


async def _serve(workflow: "HostedWorkflow") -> None:
    from runtime import log as logs
    from runtime.cli.console import Console
    from runtime.cli.driver_host import DriverHost
    from runtime.cli.local_drivers import connected, watched
    from runtime.cli.local_run import process_command
    from runtime.cli.serving import on_signals, stopped_or_closed
    from runtime.deploy.supervisor import Supervisor
    from runtime.errors import NotFoundError

    logs.configure(level="WARN")
    stop = asyncio.Event()
    console = Console(on_closed=stop.set)
    with on_signals(stop.set):
        async with connected(workflow) as bus, watched(bus, workflow.stream) as drivers:
            try:
                await bus.stream_state(workflow.stream)
            except NotFoundError as error:
                raise target.NotRunningError(f"there is no stream {workflow.stream}: {target.REMEDY}") from error
            async with (
                Supervisor(on_line=console.line, command=process_command()) as supervisor,
                DriverHost(workflow, supervisor, bus, drivers),
            ):
                console.say(f"ready: krt driver add {workflow.name} REF CLASS   (Ctrl-C stops)")
                await stopped_or_closed(stop, bus)
