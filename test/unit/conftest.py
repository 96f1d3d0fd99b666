"""A clock that stands still until a test advances it, and a bus in memory that goes by it."""

import pytest

from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(clock: FakeClock) -> MemoryBroker:
    return MemoryBroker(clock)
