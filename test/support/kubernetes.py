"""Manifests as tests look at them: by kind and name, and whether what they refer to is there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Manifest = Mapping[str, Any]


def of_kind(documents: Sequence[Manifest], kind: str) -> dict[str, Any]:
    """Return the objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def workloads(documents: Sequence[Manifest]) -> list[Any]:
    """Return what makes pods."""
    return [each for each in documents if each["kind"] in ("Deployment", "StatefulSet")]


def pod_of(workload: Manifest) -> Any:
    """Return the pod of a workload."""
    return workload["spec"]["template"]["spec"]


def container_of(workload: Manifest) -> Any:
    """Return the one container of a workload."""
    (container,) = pod_of(workload)["containers"]
    return container


def variables_of(workload: Manifest) -> dict[str, str]:
    """Return the variables of a workload's container that stand in the manifest."""
    return {each["name"]: each["value"] for each in container_of(workload).get("env", []) if "value" in each}


def secrets_of(workload: Manifest) -> dict[str, str]:
    """Return the variables that a pod takes from a Secret, as `name/key`; an optional one ends in `?`."""
    found = {}
    for each in container_of(workload).get("env", []):
        if "valueFrom" in each:
            reference = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = f"{reference['name']}/{reference['key']}{'?' * reference.get('optional', False)}"
    return found


def broken_references(documents: Sequence[Manifest], secrets: Sequence[str]) -> list[str]:
    """Return what objects refer to and nothing provides. secrets: names of those that the user makes."""
    return [
        *_of_services(documents),
        *(problem for workload in workloads(documents) for problem in _of_pod(workload, documents, secrets)),
        *_of_scaling(documents),
    ]


def _of_services(documents: Sequence[Manifest]) -> Iterator[str]:
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in workloads(documents)]
    ports = [{port["name"] for port in container_of(each).get("ports", [])} for each in workloads(documents)]
    for name, service in of_kind(documents, "Service").items():
        selected = [
            number for number, labels in enumerate(pods) if service["spec"]["selector"].items() <= labels.items()
        ]
        if len(selected) != 1:
            yield f"Service {name} selects the pods of {len(selected)} workloads"
        elif missing := {port["targetPort"] for port in service["spec"]["ports"]} - ports[selected[0]]:
            yield f"Service {name} leads to ports {missing}, which the pods have not"


def _of_pod(workload: Manifest, documents: Sequence[Manifest], secrets: Sequence[str]) -> Iterator[str]:
    name, pod, container = workload["metadata"]["name"], pod_of(workload), container_of(workload)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    if not workload["spec"]["selector"]["matchLabels"].items() <= labels.items():
        yield f"{name} does not select its own pods"
    volumes = {each["name"]: each for each in pod.get("volumes", [])}
    claimed = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes.keys() | claimed:
            yield f"{name} mounts {mount['name']}, which is no volume"
    for volume in volumes.values():
        yield from _of_volume(name, volume, documents, secrets)
    wanted = {reference.partition("/")[0] for reference in secrets_of(workload).values()}
    for secret in wanted - set(secrets):
        yield f"{name} takes variables from the Secret {secret}"
    ports = {each["name"] for each in container.get("ports", [])}
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe].get("tcpSocket") or container[probe].get("httpGet")
        if asked and asked["port"] not in ports:
            yield f"{name} is asked at port {asked['port']}, which it has not"


def _of_volume(workload: str, volume: Manifest, documents: Sequence[Manifest], secrets: Sequence[str]) -> Iterator[str]:
    if "secret" in volume and volume["secret"]["secretName"] not in secrets:
        yield f"{workload} mounts the Secret {volume['secret']['secretName']}"
    if "configMap" in volume:
        config_map = of_kind(documents, "ConfigMap").get(volume["configMap"]["name"], {})
        keys = {*config_map.get("data", {}), *config_map.get("binaryData", {})}
        if missing := {item["key"] for item in volume["configMap"]["items"]} - keys:
            yield f"{workload} mounts {missing}, which its ConfigMap has not"


def _of_scaling(documents: Sequence[Manifest]) -> Iterator[str]:
    deployments = of_kind(documents, "Deployment")
    for name, scaled in of_kind(documents, "ScaledObject").items():
        target = deployments.get(scaled["spec"]["scaleTargetRef"]["name"])
        if target is None:
            yield f"ScaledObject {name} scales what is not there"
        elif "replicas" in target["spec"]:
            yield f"ScaledObject {name} and its Deployment both say how many replicas there are"
