"""`krt compose`: a workflow as a compose file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.loading import checked_workflow
from runtime.cli.options import FolderArgument, InfluxUriOption, MongoUriOption, PickOption, RuntimeOption

# What docker/Dockerfile and Dockerfile.cuda are built as: docs/images.md.
IMAGE, CUDA_IMAGE = "krt", "krt:cuda"

HEADER = "# Printed by `krt compose`: print it anew instead of editing it."


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("compose")(compose)


def compose(
    path: FolderArgument = Path("."),
    workflow: PickOption = "",
    image: Annotated[str, typer.Option("--image", metavar="NAME", help="Image of the processes. [krt]")] = "",
    gpu_image: Annotated[
        str,
        typer.Option("--gpu-image", metavar="NAME", help="Of those with GPUs. [that of --image, else krt:cuda]"),
    ] = "",
    gpus: Annotated[
        str,
        typer.Option("--gpus", metavar="IDS", help="GPUs to give out: 0,1 or UUIDs, or none. [from 0 on]"),
    ] = "",
    share_gpus: Annotated[bool, typer.Option("--share-gpus", help="Let processes share too few GPUs.")] = False,
    runtime_id: RuntimeOption = "local",
    mongo_uri: MongoUriOption = "",
    influx_uri: InfluxUriOption = "",
) -> None:
    """Print a compose file of the workflow: NATS, MongoDB, InfluxDB, manager, writer, every node and driver.

    The workflow's folder is mounted, by its path from the current folder: keep the file here. Secrets of nodes stay
    references to variables, which `docker compose up` finds in its environment or in a file `.env`. A URI may also be
    sqlite:////data/NAME, a file that all containers share.

    Exit codes: 0 printed, 2 the workflow or an option is wrong.

    Example: krt compose workflows/hello > compose.yaml
    """
    from runtime.deploy.compose import ComposeOptions, compose_file
    from runtime.spec.dump import yaml_text

    loaded = checked_workflow(path, workflow)
    options = ComposeOptions(
        image=image or IMAGE,
        gpu_image=gpu_image or image or CUDA_IMAGE,
        gpus=gpus.strip(),
        share_gpus=share_gpus,
        folder=_from_here(loaded.folder),
        runtime_id=runtime_id,
        mongo_uri=mongo_uri,
        influx_uri=influx_uri,
    )
    typer.echo(HEADER)
    typer.echo(yaml_text(compose_file(loaded, options)), nl=False)


def _from_here(folder: Path) -> str:
    """Return the path from the current folder as compose wants it: without a dot in front it would name a volume."""
    path = Path(os.path.relpath(folder)).as_posix()
    return path if path.startswith(".") else f"./{path}"
