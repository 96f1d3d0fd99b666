"""A workbench for the tests of nodes on a real nats-server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from test.support.children import Workbench

OpenWorkbench = Callable[..., Awaitable[Workbench]]


@pytest.fixture
async def open_workbench(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[OpenWorkbench]:
    """Make streams, consumer and handler file; every child process is ended after the test."""
    benches: list[Workbench] = []
    folder = tmp_path / "workflow"

    async def start(handler: str, **options: Any) -> Workbench:
        bench = await Workbench.open(nats_server.url, folder, handler, **options)
        benches.append(bench)
        return bench

    yield start
    for bench in benches:
        await bench.close()
