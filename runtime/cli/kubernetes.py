"""`krt kubernetes`: a workflow as Kubernetes manifests."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli.loading import checked_workflow
from runtime.cli.options import FolderArgument, InfluxUriOption, MongoUriOption, PickOption, RuntimeOption

if TYPE_CHECKING:
    from runtime.deploy.kubernetes import Manifests


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command("kubernetes")(kubernetes)


def kubernetes(
    image: Annotated[str, typer.Option("--image", metavar="NAME", help="Image of the processes.")],
    path: FolderArgument = Path("."),
    workflow: PickOption = "",
    gpu_image: Annotated[
        str, typer.Option("--gpu-image", metavar="NAME", help="Of those with GPUs. [that of --image]")
    ] = "",
    share_gpus: Annotated[
        bool, typer.Option("--share-gpus", help="A share of a GPU is one nvidia.com/gpu.shared.")
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Carry the folder in a ConfigMap, for an image without it.")
    ] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Of all objects.")] = "default",
    runtime_id: RuntimeOption = "local",
    nats: Annotated[
        str, typer.Option("--nats", metavar="URL", help="Use this NATS, not one of the file; commas between several.")
    ] = "",
    nats_secret: Annotated[
        str, typer.Option("--nats-secret", metavar="NAME", help="Secret with the files of a credentials folder.")
    ] = "",
    nats_monitoring: Annotated[
        str, typer.Option("--nats-monitoring", metavar="HOST:PORT", help="Where KEDA asks for lags. [port 8222]")
    ] = "",
    nats_account: Annotated[
        str, typer.Option("--nats-account", metavar="NAME", help="Account that KEDA asks for.")
    ] = "$G",
    mongo_uri: MongoUriOption = "",
    influx_uri: InfluxUriOption = "",
    secret: Annotated[
        str, typer.Option("--secret", metavar="NAME", help="Secret with all other secrets. [WORKFLOW-VERSION]")
    ] = "",
) -> None:
    """Print Kubernetes manifests of the workflow: a Deployment for the manager, the writer, every node and driver.

    NATS, MongoDB and InfluxDB are a pod with a volume each, unless an option names another one. Values of secrets are
    never printed: pods take them from a Secret, whose keys are listed on standard error. Nodes with a range of replicas
    are scaled by KEDA on what their consumer has not handled.

    Exit codes: 0 printed, 2 the workflow or an option is wrong.

    Example: krt kubernetes workflows/hello --image registry.example/hello:1 | kubectl apply --server-side -f -
    """
    from runtime.deploy.kubernetes import KubernetesOptions, manifests
    from runtime.deploy.kubernetes_files import read_files
    from runtime.spec.dump import yaml_documents

    loaded = checked_workflow(path, workflow)
    options = KubernetesOptions(
        image=image,
        gpu_image=gpu_image,
        share_gpus=share_gpus,
        files=read_files(loaded.folder) if files else {},
        namespace=namespace,
        runtime_id=runtime_id,
        nats=nats,
        nats_secret=nats_secret,
        nats_monitoring=nats_monitoring,
        nats_account=nats_account,
        mongo_uri=mongo_uri,
        influx_uri=influx_uri,
        secret=secret,
    )
    made = manifests(loaded, options)
    typer.echo(yaml_documents(made.documents), nl=False)
    if made.keys:
        typer.echo(_needed(made, namespace), err=True)


def _needed(made: "Manifests", namespace: str) -> str:
    """Return the command that makes the Secret, without the values."""
    literals = " ".join(f"--from-literal={key}=…" for key in made.keys)
    return f"needs: kubectl -n {namespace} create secret generic {made.secret} {literals}"
