"""The pods of `krt kubernetes`, in podman: they work with the few rights that they have, and end in order.

What podman does in another way is taken out of them or put in its place: probes need systemd, ports a network of their
own, and its secrets are JSON.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.deploy.kubernetes import KubernetesOptions, Manifests, manifests
from runtime.deploy.kubernetes_files import read_files
from runtime.spec.dump import yaml_documents
from runtime.spec.load import load
from test.container.conftest import BASE
from test.container.podman import Podman
from test.support.kubernetes import container_of, of_kind
from test.support.ports import free_port

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/krt:cpu"
# End of the line with which a process says that it works.
READY = " ready action=ready"
# The writer would wait for a MongoDB.
PROCESSES = ("flow-dev-krt-manager", "flow-dev-look", "flow-dev-api")
NOWHERE = "127.0.0.1:1"

HANDLER = """
import os
import tempfile


def handler(ctx, data: dict) -> dict:
    tempfile.NamedTemporaryFile().close()
    with open("/proc/self/status") as status:
        (capabilities,) = (line.split()[1] for line in status if line.startswith("CapEff"))
    return {
        "user": os.getuid(),
        "capabilities": int(capabilities, 16),
        "home": os.path.expanduser("~"),
        "writable": [folder for folder in ("/", "/opt/krt", "/workflow") if os.access(folder, os.W_OK)],
        "token": os.environ["API_TOKEN"],
    }
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def made(podman: Podman, nats_server: EmbeddedServer, tmp_path: Path, port: int) -> Manifests:
    """The manifests of a workflow with a secret, its folder in a ConfigMap; the image is there."""
    podman.build("docker/Dockerfile", IMAGE, context=ROOT, arguments={"BASE_IMAGE": BASE})
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "look.py").write_text(HANDLER)
    node = "{name: look, handler: look.py, secrets: [API_TOKEN]}"
    driver = f"{{class: http, ports: {{http: {port}}}}}"
    (folder / "workflow.yaml").write_text(f"name: flow\nnodes: [{node}]\ndrivers: {{api: {driver}}}\n")
    options = KubernetesOptions(
        image=IMAGE,
        files=read_files(folder),
        nats=nats_server.url,
        mongo_uri=f"mongodb://{NOWHERE}",
        influx_uri=f"http://{NOWHERE}",
    )
    return manifests(load(folder), options)


@pytest.fixture
def containers(podman: Podman, made: Manifests, tmp_path: Path) -> Iterator[list[str]]:
    """The containers of the pods, which run."""
    podman.build_pause(BASE, tmp_path)
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"API_TOKEN": base64.b64encode(b"hush").decode()}))
    podman.run("secret", "create", made.secret, str(secret))
    deployments = [of_kind(made.documents, "Deployment")[name] for name in PROCESSES]
    file = tmp_path / "pods.yaml"
    file.write_text(yaml_documents([*of_kind(made.documents, "ConfigMap").values(), *map(for_podman, deployments)]))
    podman.run("kube", "play", "--network=host", str(file))

    yield [f"{each['metadata']['name']}-pod-0-{container_of(each)['name']}" for each in deployments]
    podman.run("pod", "rm", "--all", "--force", "--time=0")
    podman.run("secret", "rm", made.secret)


def for_podman(deployment: Any) -> Any:
    for key in ("ports", "livenessProbe", "lifecycle"):
        container_of(deployment).pop(key, None)
    return deployment


def test_pods_with_the_least_rights_answer_are_healthy_and_end_in_order(
    podman: Podman, containers: list[str], port: int
) -> None:
    for container in containers:
        podman.wait_for_line(container, READY)

    answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={}, timeout=30)

    assert answer.json() == {"user": 10001, "capabilities": 0, "home": "/tmp", "writable": [], "token": "hush"}
    for container in containers:
        podman.run("exec", container, "python", "/opt/krt/healthcheck.py")
    podman.run("stop", *reversed(containers))
    codes = [podman.run("inspect", "--format={{.State.ExitCode}}", container).strip() for container in containers]
    assert codes == ["0"] * len(containers)
