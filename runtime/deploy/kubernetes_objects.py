"""What all objects of one deployed workflow have in common on Kubernetes: names, namespace and labels. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.deploy.process import Process

Manifest = dict[str, Any]

# Characters of a name: a StatefulSet's gets 11 more in a label of its pods, which takes 63.
MAX_NAME_LENGTH = 52
# Of these, characters of the workflow and its version: the rest of a name tells its objects apart.
MAX_BEGINNING_LENGTH = 30
# Hex digits that keep names apart which were cut to that length.
HASH_DIGITS = 8

API_VERSIONS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a workflow is deployed. Another version of it is another deployment beside this one."""

    workflow: str
    version: str
    namespace: str

    def name(self, part: str = "") -> str:
        """Return the name of an object of this workflow, `digits-dev-classify`, or what all of them begin with."""
        # The name of a Service begins with a letter.
        first = self.workflow if self.workflow[0].isalpha() else f"krt-{self.workflow}"
        beginning = _cut(f"{first}-{self.version}", MAX_BEGINNING_LENGTH)
        return _cut(f"{beginning}-{part}", MAX_NAME_LENGTH) if part else beginning

    def selector(self, component: str) -> dict[str, str]:
        """Return the labels by which the pods of one component are found."""
        return {"app.kubernetes.io/instance": self.name(), "app.kubernetes.io/component": component}

    def labels(self, component: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": self.workflow,
            **self.selector(component),
            "app.kubernetes.io/version": self.version,
            "app.kubernetes.io/managed-by": "krt",
        }

    def manifest(self, kind: str, name: str, component: str, **content: Any) -> Manifest:
        """Return an object. content: what follows its metadata."""
        metadata = {"name": name, "namespace": self.namespace, "labels": self.labels(component)}
        return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": metadata, **content}

    def template(self, component: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template of the pods of a component."""
        return {"metadata": {"labels": self.labels(component)}, "spec": dict(pod)}

    def service(self, name: str, component: str, ports: Mapping[str, int]) -> Manifest:
        """Return the Service of a component. ports: numbers by name, the same as those of its containers."""
        listed = [{"name": port, "port": number, "targetPort": port} for port, number in ports.items()]
        return self.manifest("Service", name, component, spec={"selector": self.selector(component), "ports": listed})

    def host(self, service: str) -> str:
        """Return the name under which every pod of the cluster finds a Service."""
        return f"{service}.{self.namespace}.svc"


def part_of(process: Process) -> str:
    """Return the last part of the names of a process's objects: a driver's own name, for people type it."""
    return process.name.removeprefix("krt.driver.").replace(".", "-")


def _cut(name: str, length: int) -> str:
    """Return a name that is no longer; a hash keeps those apart that begin in the same way."""
    if len(name) <= length:
        return name
    digits = hashlib.sha256(name.encode()).hexdigest()[:HASH_DIGITS]
    return f"{name[: length - HASH_DIGITS - 1].rstrip('-')}-{digits}"
