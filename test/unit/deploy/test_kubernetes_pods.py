"""The pods of a workflow: rights, probes, limits, GPUs, images and names."""

from pathlib import Path
from typing import Any

import pytest

from runtime.deploy.kubernetes import KubernetesOptions, manifests
from runtime.deploy.kubernetes_objects import MAX_NAME_LENGTH, Place
from runtime.errors import ConfigError
from runtime.spec.model import AlgorithmRunner, Driver, Node, ObjectStore, Source, Stream, Workflow
from runtime.spec.resources import ProcessResources
from test.support.kubernetes import container_of, of_kind, pod_of, variables_of, workloads

MIB, GIB = 1024**2, 1024**3


def node(name: str, *, replicas: int = 1, image: str = "", **resources: Any) -> Node:
    limits = ProcessResources(**resources)
    source = Source.parse("entrypoint")
    return Node(name=name, handler="a.py", sources=(source,), replicas=replicas, resources=limits, image=image)


def flow(*nodes: Node, **fields: Any) -> Workflow:
    path = Path("/flows/workflow.yaml")
    return Workflow(
        name="triage", nodes=nodes, output=Source.parse(nodes[-1].name), folder=path.parent, path=path, **fields
    )


def workloads_of(workflow: Workflow, **options: Any) -> list[Any]:
    return workloads(manifests(workflow, KubernetesOptions(image="flows:1", **options)).documents)


def deployments_of(workflow: Workflow, **options: Any) -> dict[str, Any]:
    found = manifests(workflow, KubernetesOptions(image="flows:1", **options)).documents
    return {name.removeprefix("triage-dev-"): each for name, each in of_kind(found, "Deployment").items()}


def test_every_pod_has_the_least_rights() -> None:
    for each in workloads_of(flow(node("clean"), drivers=(Driver(name="api", type="http"),))):
        pod, container = pod_of(each), container_of(each)

        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_process_writes_to_its_scratch_folder_alone_which_is_its_home() -> None:
    for each in deployments_of(flow(node("clean"))).values():
        assert container_of(each)["securityContext"]["readOnlyRootFilesystem"] is True
        assert container_of(each)["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}]
        assert variables_of(each)["HOME"] == "/tmp"


def test_a_home_of_the_file_wins() -> None:
    clean = node("clean").model_copy(update={"env": {"HOME": "/tmp/clean"}})

    assert variables_of(deployments_of(flow(clean))["clean"])["HOME"] == "/tmp/clean"


def test_a_pod_is_killed_later_than_its_process_gives_up_by_itself() -> None:
    own = deployments_of(flow(node("clean"), drivers=(Driver(name="api", type="http"),)))

    for each in own.values():
        grace_s = float(variables_of(each)["KRT_SHUTDOWN_GRACE"])
        lifecycle = container_of(each).get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})
        before_s = lifecycle["preStop"]["sleep"]["seconds"]
        assert pod_of(each)["terminationGracePeriodSeconds"] > grace_s + before_s
    # Requests still come for a moment to a pod that ends.
    assert container_of(own["api"])["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_a_pod_without_nats_is_not_ready_at_once_and_not_killed_for_ten_minutes() -> None:
    clean = container_of(deployments_of(flow(node("clean")))["clean"])

    check = {"command": ["python", "/opt/krt/healthcheck.py"]}
    assert clean["readinessProbe"]["exec"] == clean["livenessProbe"]["exec"] == check
    assert clean["livenessProbe"]["periodSeconds"] * clean["livenessProbe"]["failureThreshold"] == 600


@pytest.mark.parametrize(
    ("resources", "quantities"),
    [
        ({"cpu": 0.5, "memory_bytes": 512 * MIB}, {"cpu": "500m", "memory": "512Mi"}),
        ({"cpu": 2.0}, {"cpu": "2000m"}),
        ({"memory_bytes": 8 * GIB}, {"memory": "8Gi"}),
        ({"memory_bytes": 3 * 1024}, {"memory": "3Ki"}),
    ],
)
def test_cores_and_memory_are_reserved_and_limited(resources: dict[str, Any], quantities: dict[str, str]) -> None:
    clean = container_of(deployments_of(flow(node("clean", **resources)))["clean"])

    assert clean["resources"] == {"requests": quantities, "limits": quantities}


def test_a_process_without_resources_has_no_limits() -> None:
    assert "resources" not in container_of(deployments_of(flow(node("clean")))["clean"])


def test_whole_gpus_are_limits_and_their_pods_have_the_image_for_them() -> None:
    own = deployments_of(flow(node("clean"), node("ocr", gpu=2, cpu=1, replicas=2)), gpu_image="flows:cuda")

    ocr = container_of(own["ocr"])
    assert ocr["resources"] == {"requests": {"cpu": "1000m"}, "limits": {"cpu": "1000m", "nvidia.com/gpu": "2"}}
    assert (ocr["image"], own["ocr"]["spec"]["replicas"]) == ("flows:cuda", 2)
    assert [each["key"] for each in pod_of(own["ocr"])["tolerations"]] == ["nvidia.com/gpu"]
    assert variables_of(own["ocr"])["KRT_GPU_SHARE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in variables_of(own["ocr"])
    assert variables_of(own["clean"])["CUDA_VISIBLE_DEVICES"] == ""
    assert container_of(own["clean"])["image"] == "flows:1"
    assert "tolerations" not in pod_of(own["clean"])


def test_a_pod_with_gpus_gives_them_back_before_the_next_one_starts() -> None:
    own = deployments_of(flow(node("clean"), node("ocr", gpu=1)))

    assert own["ocr"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert "strategy" not in own["clean"]["spec"]


def test_a_share_of_a_gpu_is_refused_unless_the_cluster_slices_its_time() -> None:
    workflow = flow(node("ocr", gpu=0.5))

    with pytest.raises(ConfigError, match=r"^ocr asks for 0.5 GPU, and Kubernetes lends whole ones; .* --share-gpus$"):
        deployments_of(workflow)
    ocr = deployments_of(workflow, share_gpus=True)["ocr"]
    assert container_of(ocr)["resources"] == {"limits": {"nvidia.com/gpu.shared": "1"}}
    assert variables_of(ocr)["KRT_GPU_SHARE"] == "0.5"


def test_a_process_has_its_own_image_before_those_of_the_options() -> None:
    workflow = flow(
        node("clean"),
        node("score", image="scores:3"),
        node("ocr", image="ocr:1", gpu=1),
        drivers=(Driver(name="api", type="http", image="web:4"),),
        algorithms=(AlgorithmRunner(name="images", adapter="images", image="images:2"),),
    )

    images = {name: container_of(each)["image"] for name, each in deployments_of(workflow).items()}

    assert images == {
        "krt-manager": "flows:1",
        "krt-writer": "flows:1",
        "krt-algorithms-images": "images:2",
        "clean": "flows:1",
        "score": "scores:3",
        "ocr": "ocr:1",
        "api": "web:4",
    }


def test_only_pods_of_the_workflow_reach_its_servers() -> None:
    found = manifests(flow(node("clean")), KubernetesOptions(image="flows:1", mongo_uri="mongodb://db.lab")).documents

    policy = of_kind(found, "NetworkPolicy")["triage-dev-servers"]["spec"]

    own = {"matchLabels": {"app.kubernetes.io/instance": "triage-dev"}}
    assert policy["ingress"] == [{"from": [{"podSelector": own}]}]
    (expression,) = policy["podSelector"]["matchExpressions"]
    components = {
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in of_kind(found, "StatefulSet").values()
    }
    assert set(expression["values"]) == components == {"krt.nats", "krt.influx"}


@pytest.mark.parametrize(("stream_gib", "store_gib", "size"), [(1, 1, "10Gi"), (20, 5, "90Gi")])
def test_the_volume_of_nats_has_room_for_what_the_workflow_may_store(
    stream_gib: int, store_gib: int, size: str
) -> None:
    stores = {"pages": ObjectStore(max_bytes=store_gib * GIB)}

    found = manifests(
        flow(node("clean"), stream=Stream(max_bytes=stream_gib * GIB), objects=stores),
        KubernetesOptions(image="flows:1"),
    ).documents

    (claim,) = of_kind(found, "StatefulSet")["triage-dev-nats"]["spec"]["volumeClaimTemplates"]
    # Large payloads have a store of their own, which may become as large as the stream.
    assert claim["spec"]["resources"]["requests"]["storage"] == size


def test_long_names_are_cut_and_stay_apart() -> None:
    place = Place(workflow="w" * 40, version="v1", namespace="default")

    first, second = (place.name(part) for part in ("a" * 40, "a" * 39 + "b"))

    assert first != second
    assert len(first) == len(second) == MAX_NAME_LENGTH
    assert place.name("score").endswith("-score")


def test_a_name_begins_with_a_letter() -> None:
    assert Place(workflow="3d", version="v1", namespace="default").name("scan") == "krt-3d-v1-scan"
