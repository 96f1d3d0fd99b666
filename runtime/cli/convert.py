"""`krt convert`: a manifest of KRE as a workflow file."""

from pathlib import Path
from typing import Annotated

import typer

from runtime import errors
from runtime.cli.options import PickOption


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("convert")(convert)


def convert(
    path: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of a krt.yml, or the file.")] = Path("."),
    workflow: PickOption = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here; nothing is replaced.")
    ] = None,
) -> None:
    """Print the workflow file that a manifest of KRE (krt.yml) stands for, or write it with --out.

    It describes the same workflow. Beside the manifest, as workflow.yaml, it takes the manifest's place.

    Exit codes: 0 converted, 2 the manifest or an option is wrong.

    Example: krt convert mail --workflow sort --out mail/workflow.yaml
    """
    from runtime.spec.dump import plain, yaml_text
    from runtime.spec.load import load_report, workflow_names

    loaded = load_report(path, workflow=workflow)
    if loaded.workflow is None or loaded.document is None:
        raise errors.WorkflowError(loaded.report.problems)
    if not workflow_names(loaded.path):
        raise errors.ConfigError(f"{loaded.path} is a workflow file already; name a krt.yml")
    for problem in loaded.report.problems:
        typer.echo(str(problem), err=True)
    text = yaml_text(plain(loaded.document))
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text, loaded.path.parent)


def _write(file: Path, text: str, folder: Path) -> None:
    """Write the new file, from which the handlers' paths have to lead to the same files."""
    if file.parent.resolve() != folder.resolve():
        raise errors.ConfigError(f"{file} is not beside the manifest, where its handlers are; write it into {folder}")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise errors.ConfigError(f"{file} exists already; choose another name, or remove it") from error
    except OSError as error:
        raise errors.ConfigError(f"{file} cannot be written: {error.strerror}") from error
