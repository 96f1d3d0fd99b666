"""From a process of the plan to its Deployment: its variables, probes, limits and rights. Pure.

| in a pod | |
|---|---|
| `/workflow` | the workflow's folder, of the image or a ConfigMap |
| `/tmp` | the one place where a process can write; gone with the pod |
| `/credentials` | a Secret with what NATS asks for, where there is one |
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runtime.deploy.kubernetes_objects import Manifest, Place, part_of
from runtime.deploy.kubernetes_servers import INFLUX_TOKEN, container_security, pod_security, secret_key
from runtime.deploy.plan import uses_folder
from runtime.deploy.process import Process
from runtime.deploy.store_uris import REFERENCE
from runtime.errors import ConfigError
from runtime.settings import DEFAULT_GRACE_S
from runtime.spec.resources import ProcessResources

WORKFLOW_FOLDER, CREDENTIALS_FOLDER, SCRATCH_FOLDER = "/workflow", "/credentials", "/tmp"
# User and group of the image; a Secret's files are readable by the group alone.
IMAGE_GROUP = 10001
SECRET_FILE_MODE = 0o440

# Seconds after the grace of a process until its container is killed: for `teardown` and the last writes.
KILL_MARGIN_S = 5
# Seconds that a driver still takes requests for, until every router knows that its pod ends.
UNROUTE_S = 5

# The check of the image: does a process hold a connection to NATS?
HEALTH_CHECK = {"exec": {"command": ["python", "/opt/krt/healthcheck.py"]}}
READINESS = {"periodSeconds": 10, "timeoutSeconds": 5}
# Ten minutes: NATS may be away for as long without a pod being killed, and a process that hangs does not stay.
LIVENESS = {**HEALTH_CHECK, "periodSeconds": 60, "timeoutSeconds": 10, "failureThreshold": 10}

GPU = "nvidia.com/gpu"
# What NVIDIA's device plugin calls a part of a GPU, with time-slicing and `renameByDefault`.
GPU_SHARE = "nvidia.com/gpu.shared"
# Bytes by Kubernetes's units, largest first; sizes of a workflow file are whole numbers of the smallest.
UNITS = {"Gi": 1024**3, "Mi": 1024**2, "Ki": 1024}

# Variables that hold the URI of a store, with references to secrets in it.
_URIS = ("KRT_MONGO_URI", "KRT_INFLUX_URI")
# What an InfluxDB elsewhere may need.
_INFLUX_ACCESS = (INFLUX_TOKEN, "KRT_INFLUX_ORG", "KRT_INFLUX_BUCKET")
_PORT_NAME = re.compile(r"(?=[^a-z]*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """What all pods of a deployment have.

    secret: name of the Secret with every secret variable. credentials: name of another, with the files of a credentials
    folder for NATS, "" for none. files: volume with the workflow's folder, None where the image has it. share_gpus: a
    share of a GPU is a `GPU_SHARE`. own_influx: InfluxDB is one of the manifests.
    """

    image: str
    gpu_image: str
    secret: str
    credentials: str = ""
    files: Mapping[str, Any] | None = None
    share_gpus: bool = False
    own_influx: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a process is beside its plan. ports: numbers by name, for others to reach. scaled: KEDA sets its replicas.

    environment: further variables. alone: no second one may run beside it, not even while it is replaced.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    scaled: bool = False
    alone: bool = False


class _Volume(NamedTuple):
    """A volume of a pod, and where its container has it."""

    name: str
    path: str
    source: Mapping[str, Any]

    @property
    def mount(self) -> dict[str, Any]:
        # One for scratch files alone is written to.
        read_only = {} if "emptyDir" in self.source else {"readOnly": True}
        return {"name": self.name, "mountPath": self.path, **read_only}


def deployment(place: Place, process: Process, options: PodOptions, role: Role) -> Manifest:
    """Return the Deployment of a process. Raises ConfigError for a share of a GPU that nobody lends."""
    spec = {
        # What is written here would be set again with every apply, whatever KEDA has made of it.
        **({} if role.scaled else {"replicas": process.replicas}),
        **_strategy(process, role),
        "selector": {"matchLabels": place.selector(process.name)},
        "template": place.template(process.name, _pod(process, options, role)),
    }
    return place.manifest("Deployment", place.name(part_of(process)), process.name, spec=spec)


def _strategy(process: Process, role: Role) -> dict[str, Any]:
    """Return how pods are replaced: by default a new one is ready before an old one ends."""
    if role.alone:
        return {"strategy": {"type": "Recreate"}}
    if process.resources.gpu:
        # A new pod would wait for the GPU of the old one, and that one for the new one.
        return {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    return {}


def port_names(ports: Mapping[str, int]) -> dict[str, int]:
    """Return the ports by names as Kubernetes takes them."""
    return {
        name if len(name) <= 15 and _PORT_NAME.fullmatch(name) else f"port-{number}": number
        for name, number in ports.items()
    }


def _pod(process: Process, options: PodOptions, role: Role) -> dict[str, Any]:
    grace_s = DEFAULT_GRACE_S + KILL_MARGIN_S + (UNROUTE_S if role.ports else 0)
    return {
        "automountServiceAccountToken": False,
        # Variables of every Service, some of which would look like misspelt ones of ours.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(grace_s),
        "securityContext": pod_security(IMAGE_GROUP if options.credentials else None),
        **({"tolerations": [_gpu_toleration()]} if process.resources.gpu else {}),
        "containers": [_container(process, options, role)],
        "volumes": [{"name": volume.name, **volume.source} for volume in _volumes(process, options)],
    }


def _container(process: Process, options: PodOptions, role: Role) -> dict[str, Any]:
    gpu = process.resources.gpu
    ports = [{"name": name, "containerPort": number} for name, number in role.ports.items()]
    resources = _resources(process, options)
    return {
        "name": part_of(process),
        "image": process.image or (options.gpu_image if gpu else options.image),
        "args": list(process.arguments),
        "env": _environment(process, options, role),
        **({"ports": ports} if ports else {}),
        **({"resources": resources} if resources else {}),
        "readinessProbe": {**_ready(role), **READINESS},
        "livenessProbe": dict(LIVENESS),
        **({"lifecycle": {"preStop": {"sleep": {"seconds": UNROUTE_S}}}} if ports else {}),
        "securityContext": container_security(read_only=True),
        "volumeMounts": [volume.mount for volume in _volumes(process, options)],
    }


def _ready(role: Role) -> dict[str, Any]:
    """Return the check that a process can work: it listens, or is connected."""
    return {"tcpSocket": {"port": next(iter(role.ports))}} if role.ports else HEALTH_CHECK


def _volumes(process: Process, options: PodOptions) -> list[_Volume]:
    volumes = [_Volume("scratch", SCRATCH_FOLDER, {"emptyDir": {}})]
    if options.files is not None and uses_folder(process):
        volumes.append(_Volume("workflow", WORKFLOW_FOLDER, options.files))
    if options.credentials:
        source = {"secretName": options.credentials, "defaultMode": SECRET_FILE_MODE}
        volumes.append(_Volume("credentials", CREDENTIALS_FOLDER, {"secret": source}))
    return volumes


# --- variables ---


def _environment(process: Process, options: PodOptions, role: Role) -> list[dict[str, Any]]:
    """Return the variables: secrets first, for what follows may refer to them."""
    plain = {name: value for name, value in process.environment.items() if name not in process.secrets}
    in_uris = dict.fromkeys((key for name in _URIS for key in REFERENCE.findall(plain.get(name, ""))), "")
    places = sorted({**in_uris, **process.secrets}.items())
    secrets = [{"name": name, "valueFrom": _source(name, place, options)} for name, place in places]
    if "KRT_INFLUX_URI" in plain:
        secrets += _influx_access(options)
    # Libraries keep things in a home that they can write to.
    values = {"HOME": SCRATCH_FOLDER, **{name: _value(name, value) for name, value in plain.items()}}
    if options.credentials:
        values["KRT_NATS_CREDENTIALS"] = CREDENTIALS_FOLDER
    return [*secrets, *({"name": name, "value": value} for name, value in {**values, **role.environment}.items())]


def _source(name: str, place: str, options: PodOptions) -> dict[str, Any]:
    """Return where a variable comes from. place: `secret/key`, "" for its own name in the one Secret of all."""
    secret, _, key = place.partition("/")
    return secret_key(secret, key) if place else secret_key(options.secret, name)


def _influx_access(options: PodOptions) -> list[dict[str, Any]]:
    if options.own_influx:
        return [{"name": INFLUX_TOKEN, "valueFrom": secret_key(options.secret, INFLUX_TOKEN)}]
    return [{"name": key, "valueFrom": secret_key(options.secret, key, optional=True)} for key in _INFLUX_ACCESS]


def _value(name: str, value: str) -> str:
    """Return a value in the notation of Kubernetes, where `$(NAME)` is a reference and `$$` a dollar."""
    literal = value.replace("$", "$$")
    return re.sub(r"\$\$\{(\w+)\}", r"$(\1)", literal) if name in _URIS else literal


# --- resources ---


def _resources(process: Process, options: PodOptions) -> dict[str, Any]:
    """Return limits, which are requests as well: what a process may use is there when it starts."""
    asked = _cpu_and_memory(process.resources)
    limits = asked | _gpus(process, options)
    return ({"requests": asked} if asked else {}) | ({"limits": limits} if limits else {})


def _cpu_and_memory(resources: ProcessResources) -> dict[str, str]:
    asked: dict[str, str] = {}
    if resources.cpu is not None:
        asked["cpu"] = f"{round(resources.cpu * 1000)}m"
    if resources.memory_bytes is not None:
        unit = next(unit for unit, factor in UNITS.items() if resources.memory_bytes % factor == 0)
        asked["memory"] = f"{resources.memory_bytes // UNITS[unit]}{unit}"
    return asked


def _gpus(process: Process, options: PodOptions) -> dict[str, str]:
    amount = process.resources.gpu
    if not amount:
        return {}
    if amount.is_integer():
        return {GPU: f"{amount:.0f}"}
    if not options.share_gpus:
        raise ConfigError(
            f"{process.name} asks for {amount:g} GPU, and Kubernetes lends whole ones; ask for 1 or, where the cluster "
            f"slices the time of its GPUs, let each share be one {GPU_SHARE}: --share-gpus"
        )
    return {GPU_SHARE: "1"}


def _gpu_toleration() -> dict[str, str]:
    """Return what lets a pod onto machines that are kept free for GPUs."""
    return {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
