"""Runs the suite of point stores on every implementation."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.stores.open import open_points
from test.conformance.stores import point_store
from test.support.influx_server import InfluxServer, ReadableInfluxPoints


@pytest.fixture(params=["sqlite", "influx"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> point_store.Open:
    if request.param == "sqlite":
        return lambda: open_points(f"sqlite:///{tmp_path / 'store.db'}")
    server: InfluxServer = request.getfixturevalue("influx_server")
    database = server.create_database()
    return lambda: ReadableInfluxPoints(server, database)


@pytest.mark.parametrize("check", point_store.SUITE, ids=lambda check: check.__name__)
async def test_a_point_store_conforms(
    check: Callable[[point_store.Open], Awaitable[None]], open_store: point_store.Open
) -> None:
    await check(open_store)
