"""Limits and GPUs of the containers of a compose file."""

from pathlib import Path
from typing import Any

import pytest

from runtime.deploy.compose import ComposeOptions, compose_file
from runtime.deploy.compose_resources import resource_keys
from runtime.errors import ConfigError
from runtime.spec.model import Driver, Node, Source, Workflow
from runtime.spec.resources import ProcessResources

MIB = 1024**2


def node(name: str, *, replicas: int = 1, **resources: Any) -> Node:
    limits = ProcessResources(**resources)
    return Node(name=name, handler="a.py", sources=(Source.parse("entrypoint"),), replicas=replicas, resources=limits)


def services_of(*nodes: Node, drivers: tuple[Driver, ...] = (), **options: Any) -> dict[str, Any]:
    flow = Workflow(
        name="triage",
        nodes=nodes,
        drivers=drivers,
        output=Source.parse(nodes[-1].name),
        folder=Path("/flows"),
        path=Path("/flows/workflow.yaml"),
    )
    chosen = ComposeOptions(image="krt", folder=".", gpu_image="krt:cuda", **options)
    found: dict[str, Any] = compose_file(flow, chosen)["services"]
    return found


def devices(service: dict[str, Any]) -> list[str]:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    ids: list[str] = device["device_ids"]
    return ids


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({"cpu": 0.5, "memory_bytes": 512 * MIB}, {"cpus": "0.5", "memory": "512m"}),
        ({"cpu": 2.0}, {"cpus": "2"}),
        ({"memory_bytes": 8192 * MIB}, {"memory": "8g"}),
        ({"memory_bytes": 1536 * MIB}, {"memory": "1536m"}),
        ({"memory_bytes": 3 * 1024}, {"memory": "3k"}),
    ],
)
def test_cores_and_memory_are_limits(resources: dict[str, Any], limits: dict[str, str]) -> None:
    assert resource_keys(ProcessResources(**resources), []) == {"limits": limits}


def test_a_service_without_resources_has_no_limits() -> None:
    assert "deploy" not in services_of(node("clean"))["clean"]


def test_a_process_with_gpus_has_its_own_ones_the_image_for_them_and_is_told_its_share() -> None:
    services = services_of(node("clean"), node("ocr", gpu=0.5), node("classify", gpu=2, cpu=1), node("late", gpu=0.5))

    assert [devices(services[name]) for name in ("ocr", "classify", "late")] == [["0"], ["1", "2"], ["0"]]
    assert services["classify"]["deploy"]["resources"]["limits"] == {"cpus": "1"}
    assert [services[name]["image"] for name in ("clean", "ocr", "classify")] == ["krt", "krt:cuda", "krt:cuda"]
    assert services["ocr"]["environment"]["KRT_GPU_SHARE"] == "0.5"
    assert services["clean"]["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    # The engine shows a container its own devices alone, and counts them from 0.
    assert "CUDA_VISIBLE_DEVICES" not in services["ocr"]["environment"]


def test_replicas_with_gpus_are_services_of_their_own() -> None:
    services = services_of(node("clean", replicas=2), node("ocr", gpu=1, replicas=2))

    assert list(services)[-3:] == ["clean", "ocr-1", "ocr-2"]
    assert [devices(services[name]) for name in ("ocr-1", "ocr-2")] == [["0"], ["1"]]
    assert (services["clean"]["scale"], "scale" in services["ocr-1"]) == (2, False)


def test_a_driver_may_have_gpus_too() -> None:
    camera = Driver(name="camera", type="source-sink", resources=ProcessResources(gpu=1))

    services = services_of(node("clean", gpu=1), drivers=(camera,))

    assert devices(services["krt.driver.camera"]) == ["1"]


def test_a_node_called_like_a_replica_of_another_is_refused() -> None:
    with pytest.raises(ConfigError, match='two services of the compose file are called "ocr-1"'):
        services_of(node("ocr", gpu=1, replicas=2), node("ocr-1"))


def test_named_gpus_are_given_out_and_too_few_refused_or_shared() -> None:
    nodes = node("ocr", gpu=1), node("classify", gpu=1)

    assert devices(services_of(*nodes, gpus="4, GPU-5d")["classify"]) == ["GPU-5d"]
    assert devices(services_of(*nodes, gpus="4", share_gpus=True)["classify"]) == ["4"]
    with pytest.raises(ConfigError, match="this machine lends 1 GPU, which does not do for ocr 1, classify 1"):
        services_of(*nodes, gpus="4")


def test_without_gpus_a_node_that_asks_for_one_is_a_service_like_any_other() -> None:
    ocr = services_of(node("ocr", gpu=1), gpus="none")["ocr"]

    assert ocr["image"] == "krt"
    assert "deploy" not in ocr
