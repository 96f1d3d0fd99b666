"""The commands of `krt`: finds the module of each one and turns errors into exit codes.

A command is registered by a module beside this one with `register(app)`, which is imported when the command is used:
`COMMANDS` says where each one is. These modules import what they need inside their commands, for people wait for them.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from runtime import errors
from runtime.cli import exits
from runtime.cli.plain_values import spare_pydantic
from runtime.cli.target import NotRunningError
from runtime.version import __version__

# Command -> its module, in the order in which the help lists them.
COMMANDS = {
    "new": "new",
    "check": "check",
    "schema": "check",
    "run": "run",
    "send": "send",
    "feed": "feed",
    "status": "status",
    "driver": "driver",
    "algorithms": "algorithms",
    "model": "model",
    "runs": "runs",
    "connector": "connector",
    "state": "state",
    "dlq": "dlq",
    "repro": "repro",
    "peek": "peek",
    "trace": "trace",
    "clean": "clean",
    "compose": "compose",
    "kubernetes": "kubernetes",
    "permissions": "permissions",
    "convert": "convert",
    "node": "processes",
    "writer": "processes",
    "manager": "processes",
}


spare_pydantic()


class Commands(TyperGroup):
    """The commands of `krt`, each made when it is asked for; the help asks for all of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # For an unknown one they are all made, which is where typer looks for one that was meant.
        for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands.update(_commands_of(COMMANDS[name]))
        return self.commands.get(cmd_name)


def _commands_of(module: str) -> dict[str, Any]:
    part = _typer()
    importlib.import_module(f"runtime.cli.{module}").register(part)
    return dict(get_group(part).commands)


def _typer(**options: Any) -> typer.Typer:
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **options)


app = _typer(cls=Commands, name="krt", help="Run streaming workflows on NATS JetStream.", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"krt {__version__}")
        raise typer.Exit(exits.OK)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    nats_credentials: Annotated[
        Path | None,
        typer.Option(
            "--nats-credentials",
            metavar="DIR",
            envvar="KRT_NATS_CREDENTIALS",
            help="Folder of credentials for NATS: ca.crt tls.crt tls.key, user.creds, user.nk, user and password.",
        ),
    ] = None,
) -> None:
    """Run streaming workflows on NATS JetStream."""
    if nats_credentials is not None:
        # Where every command, and every process that one starts, finds it.
        os.environ["KRT_NATS_CREDENTIALS"] = str(nats_credentials.absolute())


def run() -> None:
    """Run the command that the arguments of this process name; ends it with one of the codes in `cli/exits.py`."""
    try:
        app()
    except (errors.ConfigError, errors.AccessError) as err:
        typer.echo(str(err), err=True)
        sys.exit(exits.CONFIG)
    except NotRunningError as err:
        typer.echo(f"krt: {err}", err=True)
        sys.exit(exits.UNAVAILABLE)
    except errors.KrtError as err:
        typer.echo(f"krt: {err}", err=True)
        sys.exit(exits.FAILED)
