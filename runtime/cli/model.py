"""`krt model`: the models of clusters, and the hosts that keep them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from runtime import errors
from runtime.cli.run import LogLevel

DEFAULT_NATS = "nats://localhost:4222"

ServersOption = Annotated[
    str, typer.Option("--nats", metavar="URL", envvar="KRT_NATS_SERVER", help="NATS server; several with commas.")
]
ClusterOption = Annotated[str, typer.Option("--cluster", metavar="NAME", help="Name of the cluster.")]
MAX_PORT = 65535


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    from runtime.cli import model_cluster  # imports nothing heavy at its top

    group = typer.Typer(help="Host models, and look at those of a cluster.", no_args_is_help=True)
    group.command("serve")(serve)
    group.command("apply")(model_cluster.apply)
    group.command("ls")(model_cluster.list_models)
    group.command("stop")(model_cluster.stop)
    group.command("logs")(model_cluster.logs)
    group.command("unquarantine")(model_cluster.unquarantine)
    app.add_typer(group, name="model")


def serve(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A models.yml with all models, in place of one by options.")
    ] = None,
    cluster: ClusterOption = "",
    model_id: Annotated[
        str, typer.Option("--model-id", metavar="ID", help="Id of the model, given by its owner.")
    ] = "",
    code: Annotated[
        Path | None, typer.Option("--code", metavar="DIR", help="Folder in which the class of the model is looked for.")
    ] = None,
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
    nats: ServersOption = "",
    port: Annotated[
        int, typer.Option("--port", min=0, max=MAX_PORT, help="With FILE: port of an own server; 0 is a free one.")
    ] = 0,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="KRT_LOG_LEVEL", case_sensitive=False, help="Lines to show.")
    ] = LogLevel.INFO,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", metavar="DIR", help="Folder of credentials for NATS.")
    ] = None,
) -> None:
    """Keep the models of a file, each in a process of its own, until Ctrl-C ends it; or one model, by options.

    The file is followed: an edit starts, replaces and stops models, and one with problems changes nothing. A host that
    ends is started again, up to its `restarts`; a model that a coordinator reports goes into quarantine. Without --nats
    a file uses the server of a `krt run` of this folder, or starts one. One model uses nats://localhost:4222, and ends
    with the process.

    Exit codes: 0 stopped in order, 1 it failed, 2 wrong arguments, 3 reported by a coordinator: start it again only
    when the model has changed.

    Example: krt model serve models.yml

    Example: krt model serve --cluster bird-game --model-id m1 --code models/alpha --memory 2Gi
    """
    if credentials is not None:
        # Where this process, and every host, finds it.
        os.environ["KRT_NATS_CREDENTIALS"] = str(credentials.absolute())
    one = {"--cluster": cluster, "--model-id": model_id, "--code": code}
    if file is not None:
        if given := [option for option, value in one.items() if value]:
            raise errors.ConfigError(f"{file} says which models there are; leave {' and '.join(given)} out")
        raise typer.Exit(_serve_file(file, nats, port, log_level))
    if missing := [option for option, value in one.items() if not value]:
        raise errors.ConfigError(f"name a models.yml, or one model: {' and '.join(missing)} missing")
    os.environ["KRT_LOG_LEVEL"] = log_level
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
    raise typer.Exit(_serve_one(spec, nats or DEFAULT_NATS))


def _serve_file(file: Path, nats: str, port: int, log_level: str) -> int:
    from runtime.cli import model_serve

    options = model_serve.ServeOptions(file=file, place=Path.cwd(), nats=nats, port=port, log_level=log_level)
    return model_serve.main(options)


def _serve_one(spec: Mapping[str, object], nats: str) -> int:
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
    host = settings.read_model_host(environ)
    return processes.keep(host.log, partial(run_model_host, host))
