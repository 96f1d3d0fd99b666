"""`krt model`: the models of clusters, and the hosts that keep them."""

from pathlib import Path
from typing import Annotated

import typer

from runtime import errors

DEFAULT_NATS = "nats://localhost:4222"

ServersOption = Annotated[
    str, typer.Option("--nats", metavar="URL", envvar="KRT_NATS_SERVER", help="NATS server; several with commas.")
]
ClusterOption = Annotated[str, typer.Option("--cluster", metavar="NAME", help="Name of the cluster.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    group = typer.Typer(help="Host models, and look at those of a cluster.", no_args_is_help=True)
    group.command("serve")(serve)
    app.add_typer(group, name="model")


def serve(
    cluster: ClusterOption,
    model_id: Annotated[str, typer.Option("--model-id", metavar="ID", help="Id of the model, given by its owner.")],
    code: Annotated[
        Path, typer.Option("--code", metavar="DIR", help="Folder in which the class of the model is looked for.")
    ],
    resources: Annotated[
        Path | None, typer.Option("--resources", metavar="DIR", help="Folder of its data: RESOURCE_DIRECTORY.")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Name for people; the id without one.")] = "",
    class_name: Annotated[
        str, typer.Option("--class", metavar="MODULE:NAME", help="The class to take, where there are several.")
    ] = "",
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Limit of the model's data: 2Gi.")] = "",
    kill_after: Annotated[
        str, typer.Option("--kill-after", metavar="DURATION", help="Time past a deadline until the model is killed.")
    ] = "60s",
    nats: ServersOption = DEFAULT_NATS,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", metavar="DIR", help="Folder of the host's credentials for NATS.")
    ] = None,
) -> None:
    """Keep one model in a process of its own, until Ctrl-C ends it or a coordinator's report does.

    Exit codes: 0 stopped in order, 1 it failed, 2 wrong arguments, 3 reported by a coordinator: start it again only
    when the model has changed.

    Example: krt model serve --cluster bird-game --model-id m1 --code models/alpha --memory 2Gi
    """
    from runtime.cli.options import parse_duration_s, parse_size_bytes

    spec = {
        "cluster": cluster,
        "model_id": model_id,
        "code": code,
        "resources": resources,
        "name": name,
        "class_name": class_name,
        "memory_bytes": parse_size_bytes(memory) if memory else 0,
        "kill_after_s": parse_duration_s(kill_after),
    }
    raise typer.Exit(_serve_one(spec, nats, credentials))


def _serve_one(spec: dict[str, object], nats: str, credentials: Path | None) -> int:
    import os
    from functools import partial

    import pydantic

    from runtime import settings
    from runtime.cli import processes
    from runtime.models.host import run_model_host
    from runtime.spec.model_host import ModelHostSpec

    try:
        told = ModelHostSpec.model_validate(spec).model_dump_json()
    except pydantic.ValidationError as error:
        faults = [f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']}" for fault in error.errors()]
        raise errors.ConfigError("\n".join(faults)) from error
    environ = {**os.environ, "KRT_NATS_SERVER": nats, "KRT_MODEL_SPEC": told}
    if credentials is not None:
        environ["KRT_NATS_CREDENTIALS"] = str(credentials.absolute())
    host = settings.read_model_host(environ)
    return processes.keep(host.log, partial(run_model_host, host))
