"""What the image adds to its base: the true one, python:3.11-slim-bookworm, has about 130 MB of the 250 aimed at."""

from pathlib import Path

import pytest

from test.container.conftest import BASE
from test.container.podman import Podman

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/krt:cpu"
MAX_ADDED_BYTES = 110_000_000


def test_the_runtime_adds_no_more_to_its_base_than_leaves_the_image_below_250_mb(podman: Podman) -> None:
    podman.build("docker/Dockerfile", IMAGE, context=ROOT, arguments={"BASE_IMAGE": BASE})

    added_bytes = size_bytes(podman, IMAGE) - size_bytes(podman, BASE)

    assert 0 < added_bytes < MAX_ADDED_BYTES


def size_bytes(podman: Podman, image: str) -> int:
    return int(podman.run("image", "inspect", "--format={{.Size}}", image))
