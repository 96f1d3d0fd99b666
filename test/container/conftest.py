"""The podman of these tests, with the stand-in base image."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import pytest

from test.container import firewall
from test.container.podman import Podman, missing

BASE = "localhost/standin:bookworm"


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """A podman that has run a container of the base image; skips where there is none, or it may not do so."""
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as cleanup:
        try:
            cleanup.callback(firewall.remove_since, firewall.podman_rules())
            # Not pytest's folder: it keeps the last three, and these are hundreds of megabytes.
            engine = Podman(Path(mkdtemp(prefix="krt-podman-")))
            cleanup.callback(engine.close)
            engine.import_base(BASE)
            engine.run("run", "--rm", "--network=host", BASE, "true")
        except (subprocess.SubprocessError, AssertionError) as error:
            pytest.skip(f"podman is installed, but runs no container here: {last_line(error)}")
        yield engine


def last_line(error: Exception) -> str:
    """Return the end of what a command said."""
    return str(error).strip().splitlines()[-1]
