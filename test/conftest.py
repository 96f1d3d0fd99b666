"""What every layer of tests shares: the time limits of the layers, and servers for those tests that need one."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer, find_binary
from runtime.errors import ServerError
from test.support import influx_server as influx
from test.support import mongo
from test.support.mongo import MongoServer, serve_mongo
from test.support.mongo_wire import MongoStandin, serve_standin
from test.support.ports import free_port

TEST_ROOT = Path(__file__).parent
# Seconds that one test may take, by layer. A test marked with `timeout` has its own limit.
LAYER_TIMEOUT_S = {"unit": 10, "conformance": 60, "integration": 60, "acceptance": 120, "container": 480}
# Layers that show whether real servers do what the product expects of them: `make integration`.
SERVER_LAYERS = {"conformance", "integration"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "integration: runs on servers: NATS, MongoDB, InfluxDB")
    config.addinivalue_line("markers", "gpu: runs on an NVIDIA GPU where there is one")
    config.addinivalue_line("markers", "browser: shows pages in Chromium; `make browser`")


def pytest_report_header() -> list[str]:
    return [mongo.describe(), influx.describe()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(TEST_ROOT):
            continue
        layer = item.path.relative_to(TEST_ROOT).parts[0]
        if layer in LAYER_TIMEOUT_S and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LAYER_TIMEOUT_S[layer]))
        if layer in SERVER_LAYERS:
            item.add_marker("integration")


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Undo what loading a handler does to this process: it changes `sys.path` and `sys.modules` on purpose."""
    for name in ("handler", "worker"):  # of a test that has loaded one elsewhere
        sys.modules.pop(name, None)
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if name in ("handler", "worker") or not getattr(module, "__file__", None):
            del sys.modules[name]


@pytest.fixture(scope="session")
def nats_server_binary() -> Path:
    """The server that tests run; without one they are skipped, but not in CI, where it must not go unnoticed."""
    try:
        return find_binary(os.environ.get("KRT_NATS_SERVER_BIN", ""))
    except ServerError as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))


@pytest.fixture
def start_nats_server(nats_server_binary: Path, tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Start servers of this test's own, with configuration where it matters: `start_nats_server(max_payload=4096)`.

    They are stopped after the test, and their logs are shown with the test when it fails.
    """
    servers: list[EmbeddedServer] = []

    def start(**options: Any) -> EmbeddedServer:
        server = EmbeddedServer(
            tmp_path / f"nats-{len(servers)}", binary=nats_server_binary, port=free_port(), options=options
        )
        servers.append(server)
        server.start_blocking()
        return server

    yield start
    for server in servers:
        server.stop_blocking()
        print(f"log of the nats-server on {server.url}:\n{server.log_tail(lines=100)}")


@pytest.fixture
def nats_server(start_nats_server: Callable[..., EmbeddedServer]) -> EmbeddedServer:
    """A nats-server of this test's own (20 ms), with an empty store."""
    return start_nats_server()


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[MongoServer]:
    """The best server there is for MongoDB's protocol; the test header names it. Take a database of your own on it."""
    with serve_mongo() as server:
        yield server


@pytest.fixture
def mongo_standin() -> Iterator[MongoStandin]:
    """A stand-in of this test's own, for faults."""
    with serve_standin() as standin:
        yield standin


@pytest.fixture(scope="session")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[influx.InfluxServer]:
    """A real InfluxDB; the test header names it. Take a database of your own on it."""
    try:
        yield from influx.serve_influx(tmp_path_factory.mktemp("influx"))
    except influx.NoInfluxError as error:
        pytest.skip(str(error))
