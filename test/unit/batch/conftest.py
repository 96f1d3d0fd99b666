"""A bench for workers of batch runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from test.support.batch import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(tmp_path) as made:
        yield made
