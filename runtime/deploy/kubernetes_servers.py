"""The servers of a workflow's manifests: each one pod with a volume, for as long as there is no better one. Pure.

Only pods of the workflow reach them, where the cluster enforces network policies; the monitoring of NATS is open to
KEDA, which runs in a namespace of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.deploy.compose_servers import (
    INFLUX,
    INFLUX_IMAGE,
    INFLUX_ORG,
    MONGO,
    MONGO_IMAGE,
    NATS,
    NATS_IMAGE,
    NATS_MONITORING_PORT,
)
from runtime.deploy.kubernetes_objects import Manifest, Place
from runtime.spec.manager import ManagerSpec

GIB = 1024**3
# GiB of a volume, where nothing is known that needs more.
LEAST_GIB = 10
# Of what streams may hold. NATS reserves it for them, out of three quarters of its disk.
ROOM = 2

# Users that the images of the servers have, or work as.
NATS_USER, MONGO_USER, INFLUX_USER = 1000, 999, 1000

# Names of the keys of the Secret that InfluxDB's first start takes.
INFLUX_TOKEN, INFLUX_PASSWORD = "KRT_INFLUX_TOKEN", "KRT_INFLUX_PASSWORD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. user: whom it runs as, and who owns its volume at `path`. read_only: it writes there alone."""

    name: str
    image: str
    user: int
    ports: Mapping[str, int]
    path: str
    probes: Mapping[str, Any]
    command: Sequence[str] = ()
    environment: Sequence[Mapping[str, Any]] = ()
    size_gib: int = LEAST_GIB
    read_only: bool = False

    @property
    def component(self) -> str:
        """What its pods are called in labels; the dot keeps them apart from nodes, whose names hold none."""
        return f"krt.{self.name}"


def nats(spec: ManagerSpec) -> Server:
    """Return NATS with JetStream, with room for what the workflow may store."""
    stored_bytes = spec.max_bytes + sum(store.max_bytes for store in spec.object_stores)
    return Server(
        name=NATS,
        image=NATS_IMAGE,
        user=NATS_USER,
        ports={"nats": 4222, "monitoring": NATS_MONITORING_PORT},
        path="/data",
        command=("nats-server", "--jetstream", "--store_dir", "/data", "--http_port", str(NATS_MONITORING_PORT)),
        probes={
            "readinessProbe": _http("/healthz?js-server-only=true", "monitoring"),
            # Not what reads all streams: a start with much to read is no reason to be killed.
            "livenessProbe": _http("/healthz?js-enabled-only=true", "monitoring"),
        },
        size_gib=max(LEAST_GIB, math.ceil(ROOM * stored_bytes / GIB)),
        read_only=True,
    )


def mongo() -> Server:
    """Return MongoDB, without a login."""
    probe = {"tcpSocket": {"port": "mongo"}}
    return Server(
        name=MONGO,
        image=MONGO_IMAGE,
        user=MONGO_USER,
        ports={"mongo": 27017},
        path="/data/db",
        probes={"readinessProbe": probe, "livenessProbe": {**probe, "initialDelaySeconds": 60}},
    )


def influx(bucket: str, secret: str) -> Server:
    """Return InfluxDB 2, which makes organization, bucket and token at its first start."""
    made = {
        "DOCKER_INFLUXDB_INIT_MODE": "setup",
        "DOCKER_INFLUXDB_INIT_USERNAME": "krt",
        "DOCKER_INFLUXDB_INIT_ORG": INFLUX_ORG,
        "DOCKER_INFLUXDB_INIT_BUCKET": bucket,
    }
    secrets = {
        "DOCKER_INFLUXDB_INIT_PASSWORD": INFLUX_PASSWORD,
        "DOCKER_INFLUXDB_INIT_ADMIN_TOKEN": INFLUX_TOKEN,
    }
    return Server(
        name=INFLUX,
        image=INFLUX_IMAGE,
        user=INFLUX_USER,
        ports={"influx": 8086},
        path="/var/lib/influxdb2",
        environment=[
            *({"name": name, "value": value} for name, value in made.items()),
            *({"name": name, "valueFrom": secret_key(secret, key)} for name, key in secrets.items()),
        ],
        probes={
            "readinessProbe": _http("/health", "influx"),
            "livenessProbe": {**_http("/health", "influx"), "initialDelaySeconds": 60},
        },
    )


def secret_key(secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    """Return the source of a variable: a key of a Secret, which no file holds."""
    return {"secretKeyRef": {"name": secret, "key": key, **({"optional": True} if optional else {})}}


def server_manifests(place: Place, server: Server) -> list[Manifest]:
    """Return the Service and the StatefulSet of a server."""
    name = place.name(server.name)
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {**pod_security(server.user), "runAsUser": server.user, "runAsGroup": server.user},
        "containers": [_container(server)],
    }
    request = {"requests": {"storage": f"{server.size_gib}Gi"}}
    stateful_set = {
        "serviceName": name,
        "replicas": 1,
        "selector": {"matchLabels": place.selector(server.component)},
        "template": place.template(server.component, pod),
        "volumeClaimTemplates": [
            {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": request}}
        ],
    }
    return [
        place.service(name, server.component, server.ports),
        place.manifest("StatefulSet", name, server.component, spec=stateful_set),
    ]


def network_policy(place: Place, servers: Sequence[Server], *, monitored: bool) -> Manifest:
    """Return who may reach the servers: pods of this workflow. monitored: all may ask NATS how much waits."""
    own = {"matchLabels": {"app.kubernetes.io/instance": place.name()}}
    components = [server.component for server in servers]
    ingress: list[dict[str, Any]] = [{"from": [{"podSelector": own}]}]
    if monitored:
        ingress.append({"ports": [{"port": NATS_MONITORING_PORT}]})
    selector = {
        **own,
        "matchExpressions": [{"key": "app.kubernetes.io/component", "operator": "In", "values": components}],
    }
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}
    return place.manifest("NetworkPolicy", place.name("servers"), "servers", spec=spec)


def pod_security(group: int | None = None) -> dict[str, Any]:
    """Return what holds for a pod. group: owns its volumes, None leaves them."""
    return {
        "runAsNonRoot": True,
        **({"fsGroup": group} if group is not None else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only: bool) -> dict[str, Any]:
    """Return what holds for a container. read_only: it writes to its volumes alone."""
    return {
        "allowPrivilegeEscalation": False,
        **({"readOnlyRootFilesystem": True} if read_only else {}),
        "capabilities": {"drop": ["ALL"]},
    }


def _container(server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        "image": server.image,
        **({"command": list(server.command)} if server.command else {}),
        **({"env": [dict(variable) for variable in server.environment]} if server.environment else {}),
        "ports": [{"name": name, "containerPort": number} for name, number in server.ports.items()],
        **server.probes,
        "securityContext": container_security(read_only=server.read_only),
        "volumeMounts": [{"name": "data", "mountPath": server.path}],
    }


def _http(path: str, port: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}}
