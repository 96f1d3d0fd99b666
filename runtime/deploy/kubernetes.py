"""From a workflow to Kubernetes manifests: its servers, and the processes of the plan as Deployments. Pure.

    made = manifests(workflow, KubernetesOptions(image="registry.example/triage:4"))
    made.documents                              # in the order in which they are to be made
    made.secret, made.keys                      # what the user makes: values never stand in a manifest

Every process waits for what it needs by itself, so that the order of their start is of no importance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from runtime.deploy import kubernetes_servers
from runtime.deploy.compose_servers import INFLUX, INFLUX_ORG, MONGO, NATS, NATS_MONITORING_PORT
from runtime.deploy.drivers import ALL_ADDRESSES, known_ports, process_name, with_ports
from runtime.deploy.kubernetes_files import files_config_map, files_volume
from runtime.deploy.kubernetes_objects import Manifest, Place, part_of
from runtime.deploy.kubernetes_pods import (
    SCRATCH_FOLDER,
    WORKFLOW_FOLDER,
    PodOptions,
    Role,
    deployment,
    port_names,
)
from runtime.deploy.kubernetes_scaling import LagSource, scaled_object
from runtime.deploy.kubernetes_servers import Server, network_policy, server_manifests
from runtime.deploy.manager_spec import manager_spec
from runtime.deploy.plan import MANAGER, Target, plan
from runtime.deploy.process import Process
from runtime.deploy.store_uris import INFLUX_SCHEMES, MONGO_SCHEMES, check_store_uri
from runtime.deploy.wiring import stream_of
from runtime.errors import ConfigError
from runtime.settings import redact
from runtime.spec import names
from runtime.spec.model import Driver, Node, Workflow

NATS_SCHEMES = ("nats", "tls", "ws", "wss")
# Account of users that a server has no other for.
DEFAULT_ACCOUNT = "$G"
# Classes of drivers of which a second one may run beside the first: others would read their sources twice.
DRIVERS_SIDE_BY_SIDE = ("http", "grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOptions:
    """What differs between manifests of one workflow.

    gpu_image: of processes with GPUs, "" for `image`. share_gpus: see `PodOptions`. files: the workflow's folder by
    path, none where the image has it. nats, mongo_uri, influx_uri: "" for a server in the manifests, or servers
    elsewhere, perhaps with references (`${NAME}`). nats_monitoring: host and port of NATS's monitoring, "" for the
    usual one. nats_secret: a Secret with the files of a credentials folder. secret: the one with all other secrets, ""
    for one that is called like the workflow.
    """

    image: str
    namespace: str = "default"
    gpu_image: str = ""
    share_gpus: bool = False
    runtime_id: str = "local"
    files: Mapping[str, bytes] = field(default_factory=dict)
    nats: str = ""
    nats_monitoring: str = ""
    nats_account: str = DEFAULT_ACCOUNT
    nats_secret: str = ""
    mongo_uri: str = ""
    influx_uri: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """The objects, and what they do not hold: the keys of a Secret."""

    documents: tuple[Manifest, ...]
    secret: str
    keys: tuple[str, ...]


def manifests(workflow: Workflow, options: KubernetesOptions) -> Manifests:
    """Return the manifests. Raises ConfigError for what cannot run on Kubernetes, and for an option."""
    _check_options(options)
    _check_workflow(workflow, options)
    workflow = with_ports(workflow)
    place = Place(workflow=workflow.name, version=workflow.version, namespace=options.namespace)
    secret = options.secret or place.name()
    documents = [
        *_server_manifests(workflow, place, options, secret),
        *_process_manifests(workflow, place, options, secret),
    ]
    _check_names(documents)
    return Manifests(documents=tuple(documents), secret=secret, keys=tuple(sorted(set(_keys_of(documents, secret)))))


# --- servers ---


def _servers(workflow: Workflow, options: KubernetesOptions, secret: str) -> list[Server]:
    servers: list[Server] = []
    if not options.nats:
        servers.append(kubernetes_servers.nats(manager_spec(workflow, options.runtime_id)))
    if not options.mongo_uri:
        servers.append(kubernetes_servers.mongo())
    if not options.influx_uri:
        servers.append(kubernetes_servers.influx(options.runtime_id, secret))
    return servers


def _server_manifests(workflow: Workflow, place: Place, options: KubernetesOptions, secret: str) -> Iterator[Manifest]:
    servers = _servers(workflow, options, secret)
    if servers:
        monitored = not options.nats and any(node.scaling for node in workflow.nodes)
        yield network_policy(place, servers, monitored=monitored)
    for server in servers:
        yield from server_manifests(place, server)


# --- processes ---


def _process_manifests(workflow: Workflow, place: Place, options: KubernetesOptions, secret: str) -> Iterator[Manifest]:
    files = files_config_map(place, options.files) if options.files else None
    if files:
        yield files
    pods = PodOptions(
        image=options.image,
        gpu_image=options.gpu_image or options.image,
        secret=secret,
        credentials=options.nats_secret,
        files=files_volume(files, options.files) if files else None,
        share_gpus=options.share_gpus,
        own_influx=not options.influx_uri,
    )
    drivers = {process_name(driver.name): driver for driver in workflow.drivers}
    nodes = {node.name: node for node in workflow.nodes}
    source = _lag_source(workflow, place, options)
    for process in plan(workflow, _target(workflow, place, options)):
        role = _role(place, process, nodes.get(process.name) or drivers.get(process.name))
        if role.ports:
            yield place.service(place.name(part_of(process)), process.name, role.ports)
        made = deployment(place, process, pods, role)
        yield made
        if role.scaled and (scaling := nodes[process.name].scaling):
            yield scaled_object(place, nodes[process.name], scaling, made["metadata"]["name"], source)


def _role(place: Place, process: Process, part: Node | Driver | None) -> Role:
    if isinstance(part, Node):
        scratch = {"KRT_BATCH_DIR": f"{SCRATCH_FOLDER}/batch"} if part.batch else {}
        return Role(scaled=part.scaling is not None, environment=scratch, alone=part.kind == "models")
    if isinstance(part, Driver):
        ports = port_names(known_ports(part))
        reached = {"KRT_ADVERTISE_ADDRESS": place.host(place.name(part_of(process)))} if ports else {}
        alone = part.replicas == 1 and part.type not in DRIVERS_SIDE_BY_SIDE
        return Role(ports=ports, environment=reached, alone=alone)
    return Role(alone=process.name == MANAGER)


def _target(workflow: Workflow, place: Place, options: KubernetesOptions) -> Target:
    return Target(
        nats_servers=_nats_servers(place, options),
        mongo_uri=options.mongo_uri or f"mongodb://{place.name(MONGO)}:27017",
        influx_uri=options.influx_uri or f"http://{place.name(INFLUX)}:8086",
        influx_org="" if options.influx_uri else INFLUX_ORG,
        influx_bucket="" if options.influx_uri else options.runtime_id,
        base_path=WORKFLOW_FOLDER,
        runtime_id=options.runtime_id,
        # Other workflows may use the same NATS, with writers of their own.
        writer_subject=names.writer_subject(stream_of(workflow, options.runtime_id)),
        # The values are not known here, and are not wanted: pods refer to them.
        environment=dict.fromkeys(workflow.secrets, ""),
        listen=ALL_ADDRESSES,
    )


def _nats_servers(place: Place, options: KubernetesOptions) -> tuple[str, ...]:
    if not options.nats:
        return (f"nats://{place.name(NATS)}:4222",)
    return tuple(url.strip() for url in options.nats.split(","))


def _lag_source(workflow: Workflow, place: Place, options: KubernetesOptions) -> LagSource:
    """Return where KEDA, which is in another namespace, finds the lag."""
    host = urlsplit(_nats_servers(place, options)[0]).hostname or ""
    # A Service of this namespace is known by its name alone.
    usual = f"{host if '.' in host else place.host(host)}:{NATS_MONITORING_PORT}"
    return LagSource(
        endpoint=options.nats_monitoring or usual,
        account=options.nats_account,
        stream=stream_of(workflow, options.runtime_id),
    )


# --- checks ---


def _check_options(options: KubernetesOptions) -> None:
    check_store_uri("--mongo-uri", options.mongo_uri, MONGO_SCHEMES)
    check_store_uri("--influx-uri", options.influx_uri, INFLUX_SCHEMES)
    for url in options.nats.split(",") if options.nats else ():
        parts = urlsplit(url.strip())
        if parts.scheme not in NATS_SCHEMES or not parts.hostname:
            expected = " or ".join(f"{scheme}://…" for scheme in NATS_SCHEMES)
            raise ConfigError(f"--nats is '{redact(url)}': expected {expected}, with commas between several")
        if parts.username:
            raise ConfigError("--nats holds a user, which a manifest must not; put it into a Secret: --nats-secret")
    if not names.is_name(options.namespace):
        raise ConfigError(f'"{options.namespace}" is no namespace; use a-z, 0-9 and "-"')


def _check_workflow(workflow: Workflow, options: KubernetesOptions) -> None:
    """Raise ConfigError, with every reason, for a workflow that needs more than a cluster has."""
    problems = [problem for node in workflow.nodes if (problem := _problem_of(node))]
    copies = workflow.stream.replicas
    if copies > 1 and not options.nats:
        problems.append(f"the stream has {copies} copies, and these manifests one NATS server: name a cluster, --nats")
    if problems:
        raise ConfigError("\n".join(problems))


def _problem_of(node: Node) -> str:
    if node.batch and node.batch.backend == "docker":
        return (
            f'node "{node.name}" starts containers, and a pod has no engine; let its `image` hold the model, and '
            "write backend: command"
        )
    if node.batch and node.batch.artifacts.store.startswith("file:"):
        return f'node "{node.name}" keeps artifacts in a folder, which pods do not share; use nats: or s3://'
    return ""


def _check_names(documents: Sequence[Manifest]) -> None:
    seen: set[tuple[str, str]] = set()
    for document in documents:
        key = (document["kind"], document["metadata"]["name"])
        if key in seen:
            raise ConfigError(f"two objects would be called {key[0]} {key[1]}; give the node or driver another name")
        seen.add(key)


def _keys_of(value: Any, secret: str) -> Iterator[str]:
    """Yield the keys of a Secret without which pods do not start."""
    if isinstance(value, Mapping):
        reference = value.get("secretKeyRef")
        if isinstance(reference, Mapping) and reference["name"] == secret and not reference.get("optional"):
            yield reference["key"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys_of(each, secret)
