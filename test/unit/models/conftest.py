"""A stage for coordinators."""

from collections.abc import AsyncIterator

import pytest

from test.support.coordinator import Stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    opened = Stage()
    yield opened
    await opened.close()
