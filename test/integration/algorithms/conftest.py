"""Runners of algorithms for tests on a real nats-server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer
from test.support.algorithms import Bench, open_bench


@pytest.fixture
async def bench(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Bench]:
    """A client and a folder for adapters; every runner is ended after the test."""
    async with open_bench(nats_server.url, tmp_path) as opened:
        yield opened
