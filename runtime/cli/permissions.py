"""`krt permissions`: users for a NATS server, one for each process of a workflow or a model cluster, with its needs."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.options import RuntimeOption

if TYPE_CHECKING:
    from runtime.deploy.permissions import Permissions

# Bytes of randomness in a password.
PASSWORD_BYTES = 24
# The server's part, beside the folders of the processes.
FILE = "permissions.conf"


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("permissions")(permissions)


def permissions(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Folders or files of workflows, or models.yml.")],
    runtime_id: RuntimeOption = "local",
    credentials: Annotated[
        Path | None,
        typer.Option(
            "--credentials", metavar="DIR", file_okay=False, help="Make a credentials folder there for every process."
        ),
    ] = None,
) -> None:
    """Print users of a NATS server for the processes of workflows and model clusters, for its configuration.

    A node may not read another workflow's messages, write another's configuration, purge, or read the answers of other
    processes; a model may not speak for another one. Passwords are variables, which the server takes from its
    environment. With --credentials they are made, once, in DIR/STREAM/PROCESS/ (of a cluster: DIR/CLUSTER/PROCESS/),
    for `krt run --nats URL` or `krt model serve` with KRT_NATS_CREDENTIALS=DIR, and nothing is printed: the users are
    in DIR/permissions.conf, for `include` in the server's configuration.

    Exit codes: 0 printed or written, 2 a file is wrong.

    Example: krt permissions workflows/hello --credentials secrets
    """
    from runtime.deploy.permissions import server_configuration

    users = [user for path in paths for user in _users_of(path, runtime_id)]
    if credentials is None:
        typer.echo(server_configuration(users), nl=False)
        return
    passwords = {user.user: _write_credentials(credentials, user) for user in users}
    _write(credentials / FILE, server_configuration(users, passwords))
    typer.echo(f"{len(users)} users are in {credentials / FILE}, and their credentials beside it", err=True)


def _users_of(path: Path, runtime_id: str) -> "list[Permissions]":
    """Raises ConfigError with every problem of the file."""
    from runtime.spec.models_file import FILE_NAME

    return _cluster_users(path) if path.name.endswith(FILE_NAME) else _workflow_users(path, runtime_id)


def _cluster_users(path: Path) -> "list[Permissions]":
    from runtime.deploy.model_permissions import model_permissions
    from runtime.errors import WorkflowError
    from runtime.spec.models_file import load_models

    models_file = (loaded := load_models(path)).models_file
    if models_file is None:
        raise WorkflowError(loaded.report.problems)
    return model_permissions(models_file)


def _workflow_users(path: Path, runtime_id: str) -> "list[Permissions]":
    from runtime.deploy.permissions import permissions as permissions_of
    from runtime.deploy.plan import Target, plan
    from runtime.deploy.wiring import stream_of
    from runtime.errors import WorkflowError
    from runtime.spec import names
    from runtime.spec.load import load_report

    workflow = (loaded := load_report(path)).workflow
    if workflow is None:
        raise WorkflowError(loaded.report.problems)
    target = Target(
        nats_servers=(),
        mongo_uri="",
        influx_uri="",
        base_path=str(workflow.folder),
        runtime_id=runtime_id,
        # As `krt run --nats` does: the server has other workflows on it.
        writer_subject=names.writer_subject(stream_of(workflow, runtime_id)),
        # Their values are of no interest here, and need not be known.
        environment=dict.fromkeys(workflow.secrets, ""),
    )
    return permissions_of(plan(workflow, target))


def _write_credentials(folder: Path, user: "Permissions") -> str:
    """Make what is missing of a user's credentials folder, and return the password."""
    from runtime.spec import names

    own = folder / user.stream / user.process
    _write(own / "user", f"{user.user}\n")
    _write(own / "inbox", f"{names.inbox_prefix(user.stream, user.process)}\n")
    if not (own / "password").exists():
        _write(own / "password", f"{secrets.token_urlsafe(PASSWORD_BYTES)}\n")
    return (own / "password").read_text().strip()


def _write(file: Path, text: str) -> None:
    """Write a file that nobody else can read, at no moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(text)
