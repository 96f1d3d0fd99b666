"""The example `cuda-smoke` in the image for NVIDIA GPUs, on a machine that has none."""

from pathlib import Path

import pytest

from test.container.conftest import BASE
from test.container.podman import Podman

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/krt:cuda"
# Runs the workflow of the image's folder in memory, for no server is needed to see what its handler sees.
PROGRAM = """
import logging
from runtime.testing import run_workflow

logging.basicConfig(level=logging.INFO, format="%(message)s")
with run_workflow("/workflow") as workflow:
    print(workflow.send({}))
"""


def test_the_smoke_example_works_on_the_cpu_where_the_container_has_no_gpu(podman: Podman) -> None:
    podman.build("Dockerfile.cuda", IMAGE, context=ROOT, arguments={"CUDA_IMAGE": BASE})
    mount = f"--volume={ROOT / 'workflows' / 'cuda-smoke'}:/workflow:ro"

    printed = podman.run("run", "--rm", "--network=none", mount, "--entrypoint=python", IMAGE, "-c", PROGRAM)

    asks = podman.run("image", "inspect", "--format={{.Config.Env}}", IMAGE)
    assert "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" in asks
    lines = printed.splitlines()
    assert "working on the CPU: there is no NVIDIA driver (libcuda.so.1)" in lines
    assert "{'device': 'cpu', 'gpus': []}" in lines
