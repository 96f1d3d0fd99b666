"""`krt new`: a small workflow that runs, with a test that passes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from runtime import errors

# Columns of the longest of the next commands, without the name, and a gap.
COMMAND_WIDTH = 32


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("new")(new)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the workflow and of its folder.")],
) -> None:
    """Make a folder with a workflow that runs, and its test.

    Example: krt new demo && krt run demo
    """
    from runtime.cli.scaffold import FILES

    make(name, Path.cwd(), FILES)
    typer.echo(f"{name}/ is a workflow of one node, {name}/greet/handler.py\n")
    for command, remark in (
        (f"krt run {name}", "in one shell"),
        (f"""krt send {name} '{{"name": "Ada"}}'""", "in a second one"),
        (f"pytest {name}", "its test: nothing has to run"),
    ):
        typer.echo(f"  {command:{COMMAND_WIDTH + len(name)}}{remark}")


def make(name: str, place: Path, files: Mapping[str, str]) -> Path:
    """Make the folder `name` in `place` and return it. Raises ConfigError; nothing is overwritten.

    files: path in the folder -> text, in which `NAME` stands for the name.
    """
    _check_name(name)
    folder = place / name
    try:
        folder.mkdir()
        for path, text in files.items():
            file = folder / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.replace("NAME", name), encoding="utf-8")
    except FileExistsError as error:
        raise errors.ConfigError(f"{name} exists already; choose another name, or remove it") from error
    except OSError as error:
        raise errors.ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def _check_name(name: str) -> None:
    from runtime.node.handler import RESERVED_MODULE
    from runtime.spec import names

    if name == RESERVED_MODULE:
        raise errors.ConfigError(f'"{name}" is the package that handlers import; choose another name')
    if not names.is_name(name):
        near = names.suggest_name(name)
        hint = f': "{near}"' if near else ""
        limit = names.MAX_NAME_LENGTH
        raise errors.ConfigError(f'"{name}" is no name; use a-z, 0-9 and "-", {limit} characters at most{hint}')
