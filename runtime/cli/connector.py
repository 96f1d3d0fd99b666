"""`krt connector`: packaged models, made and checked."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runtime import errors
from runtime.cli import exits, target
from runtime.cli.options import parse_duration_s

if TYPE_CHECKING:
    from runtime.batch.backend import Backend
    from runtime.cli.connector_check import Package


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(help="Make and check connectors: packaged models for batch runs.", no_args_is_help=True)
    group.command("init")(init)
    group.command("test")(test)
    app.add_typer(group, name="connector")


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the connector and of its folder.")],
) -> None:
    """Make a folder with a connector that passes its test: replace its model by your own.

    Example: krt connector init flood && krt connector test flood
    """
    from runtime.cli.connector_files import files
    from runtime.cli.new import make

    make(name, Path.cwd(), files())
    typer.echo(f"{name}/ is a connector; its model is simulate() of {name}/connector.py\n")
    typer.echo(f"  krt connector test {name}")


def test(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the connector.")],
    backend: Annotated[
        Literal["command", "docker"],
        typer.Option("--backend", help="Run connector.py as a command, or the image that meta.yml names."),
    ] = "command",
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="Longest run of the model.")] = "10m",
) -> None:
    """Run a connector as a batch run would, and say what is right and wrong with it.

    Exit codes: 0 all is right, 1 something is wrong, 2 files that cannot be read, 5 no Docker or Podman here.

    Example: krt connector test flood --backend docker
    """
    from runtime.cli.connector_check import Package

    package = Package.load(folder)
    timeout_s = parse_duration_s(timeout)
    try:
        passed = target.run(lambda: _check(package, backend, timeout_s))
    except errors.BackendUnavailableError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(exits.UNAVAILABLE) from error
    raise typer.Exit(exits.OK if passed else exits.FAILED)


async def _check(package: "Package", backend: str, timeout_s: float) -> bool:
    """Print what is found, and return whether it is all right."""
    from runtime.cli.connector_check import check
    from runtime.cli.connector_trial import Trials

    image = package.meta.image if backend == "docker" else ""
    passed = True
    with tempfile.TemporaryDirectory(prefix="krt-connector-") as place:
        trials = Trials(package.folder, _open(backend), Path(place), image=image, timeout_s=timeout_s)
        async for finding in check(package, trials):
            typer.echo(f"{finding.verdict:4}  {finding.text}")
            passed = passed and finding.verdict != "FAIL"
    return passed


def _open(backend: str) -> "Backend":
    if backend == "command":
        from runtime.batch.command import CommandBackend

        return CommandBackend()
    from runtime.batch.container import ContainerBackend

    return ContainerBackend()
