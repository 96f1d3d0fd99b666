"""Every test of this folder runs on a workflow in memory, and on one whose processes use a real NATS."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.inference import InferenceProcess, Runtime, init

COUNTER = Path(__file__).parent / "counter"


@pytest.fixture(scope="module", params=["debug", "nats"])
def runtime(
    request: pytest.FixtureRequest, nats_server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    if request.param == "debug":
        with init("debug") as runtime:
            yield runtime
        return
    folder = tmp_path_factory.mktemp("drivers")
    server = EmbeddedServer(folder / "nats", binary=nats_server_binary)
    server.start_blocking()
    try:
        with init("nats", servers=server.url, store=folder / "store") as runtime:
            yield runtime
    finally:
        server.stop_blocking()


@pytest.fixture(scope="module")
def proc(runtime: Runtime) -> InferenceProcess:
    """A running workflow that counts the calls of each state id."""
    return runtime.start_inference(COUNTER)


@pytest.fixture
def sid(request: pytest.FixtureRequest) -> str:
    """A state id that no other test has."""
    return f"{request.node.name}-{os.urandom(4).hex()}"
