"""Every test of this folder runs on each implementation of the bus."""

from collections.abc import AsyncIterator

import pytest

from runtime.bus.base import Bus
from test.conformance.bus.backends import Backend, MemoryBackend, NatsBackend, stream


@pytest.fixture(params=["memory", "nats"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    made: Backend = (
        MemoryBackend() if request.param == "memory" else NatsBackend(request.getfixturevalue("nats_server").url)
    )
    yield made
    await made.close()


@pytest.fixture
async def bus(backend: Backend) -> Bus:
    """A connection, on a server that has no stream."""
    return await backend.connect()


@pytest.fixture
async def orders(bus: Bus) -> Bus:
    """A connection, on a server that has the stream `orders`."""
    await bus.ensure_stream(stream())
    return bus
