"""The command `krt`: puts the groups of commands together and turns errors into exit codes.

A group is a module beside this one with `register(app)`, listed in `GROUPS`. Groups import what they need inside
their commands, because every process of a workflow starts through here and pays for each import at the top.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime import errors
from runtime.cli import (
    algorithms,
    check,
    clean,
    compose,
    connector,
    convert,
    dlq,
    driver,
    exits,
    feed,
    model,
    new,
    peek,
    permissions,
    processes,
    repro,
    run,
    runs,
    send,
    state,
    status,
    trace,
)
from runtime.cli.target import NotRunningError
from runtime.version import __version__

# New objects, and younger collections, before a collection of each generation: a list of ten thousand things is made in
# half the time, and a command ends soon. Python's own are 700, 10, 10.
GC_THRESHOLDS = (50_000, 20, 50)
# In the order in which the help lists them.
GROUPS = (
    new,
    check,
    run,
    send,
    feed,
    status,
    driver,
    algorithms,
    model,
    runs,
    connector,
    state,
    dlq,
    repro,
    peek,
    trace,
    clean,
    compose,
    permissions,
    convert,
    processes,
)

app = typer.Typer(
    name="krt",
    help="Run streaming workflows on NATS JetStream.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


for group in GROUPS:
    group.register(app)


def main() -> None:
    """Run `krt` with the arguments of this process; ends it with one of the codes in `cli/exits.py`."""
    gc.set_threshold(*GC_THRESHOLDS)
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
