"""`krt run`: a workflow on this machine, with everything that it needs. The run itself is `local_run.py`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.options import FolderArgument, PickOption, RuntimeOption
from runtime.cli.run_file import FOLDER


class LogLevel(StrEnum):
    """From which level on the processes show their lines."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("run")(run)


def run(
    path: FolderArgument = Path("."),
    workflow: PickOption = "",
    reload: Annotated[bool, typer.Option("--reload", help="Restart what an edit of the folder changes.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Run the folder's demo.py, then stop.")] = False,
    nats: Annotated[str, typer.Option("--nats", metavar="URL", help="Use this NATS instead of an own one.")] = "",
    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the data.")] = Path(FOLDER),
    runtime_id: RuntimeOption = "local",
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="KRT_LOG_LEVEL", case_sensitive=False, help="Lines to show.")
    ] = LogLevel.INFO,
    gpus: Annotated[
        str,
        typer.Option("--gpus", metavar="NAMES", envvar="KRT_GPUS", help="GPUs to use: 0,1 or UUIDs, or none. [all]"),
    ] = "",
    share_gpus: Annotated[
        bool, typer.Option("--share-gpus", envvar="KRT_GPU_SHARING", help="Let processes share too few GPUs.")
    ] = False,
) -> None:
    """Run a workflow until Ctrl-C: NATS, manager, writer, every node and driver, as processes of this machine.

    Messages, documents and measurements are kept in the store, and the next run goes on where this one stopped. Ctrl-C
    lets the nodes finish what they have begun; a second one does not. A process that ends is started again.

    Exit codes: 0 stopped in order, 1 it could not start, 2 the workflow is wrong, 130 stopped by force; with --demo,
    that of demo.py.

    Example: krt run workflows/hello --reload
    """
    from runtime.cli import local_run

    options = local_run.RunOptions(
        path=path,
        workflow=workflow,
        place=Path.cwd(),
        store=store.absolute(),
        nats=nats,
        runtime_id=runtime_id,
        # The demo's own lines are what is to be read.
        log_level=LogLevel.WARN if demo else log_level,
        reload=reload,
        demo=demo,
        gpus=gpus.strip(),
        share_gpus=share_gpus,
    )
    raise typer.Exit(local_run.main(options))
