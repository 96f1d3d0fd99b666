"""The podman of these tests, with the stand-in base image."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from test.container.podman import Podman, missing

BASE = "localhost/standin:bookworm"


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    if reason := missing():
        pytest.skip(reason)
    # Not pytest's folder: it keeps the last three, and these are hundreds of megabytes.
    engine = Podman(Path(mkdtemp(prefix="krt-podman-")))
    try:
        engine.import_base(BASE)
        yield engine
    finally:
        engine.close()
