"""Measurements in a real InfluxDB: type conflicts, retention policies, and a server that goes away and comes back."""

import pytest

from runtime.stores.base import Point, PointCounts
from runtime.stores.influx import InfluxPointStore
from test.support.influx_server import InfluxServer
from test.support.waiting import until

# Seconds after which a state that has to come counts as missed.
PATIENCE_S = 20.0


def open_store(server: InfluxServer, bucket: str, *, batch_wait_s: float = 0.01) -> InfluxPointStore:
    return InfluxPointStore(server.url, token=server.token, org=server.org, bucket=bucket, batch_wait_s=batch_wait_s)


def point(n: int, value: float | str) -> Point:
    return Point("m", {"n": value}, {"node": "score"}, 1_700_000_000_000_000_000 + n)


def values(server: InfluxServer, database: str) -> list[object]:
    return [found.fields["n"] for found in server.points(database, "m")]


async def test_a_point_of_another_type_than_the_stored_ones_does_not_take_its_neighbours(
    influx_server: InfluxServer, caplog: pytest.LogCaptureFixture
) -> None:
    database = influx_server.create_database()
    store = open_store(influx_server, database)
    store.save(point(0, 0))
    await until(lambda: store.counts.written == 1)

    for n in range(1, 100):
        store.save(point(n, "text" if n == 50 else n))
    await store.close()

    assert values(influx_server, database) == [n for n in range(100) if n != 50]
    assert store.counts == PointCounts(written=99, retried=0, dropped=1)
    assert "field type conflict" in caplog.text


async def test_points_of_two_types_in_a_first_batch_keep_all_of_one_type(influx_server: InfluxServer) -> None:
    database = influx_server.create_database()
    store = open_store(influx_server, database, batch_wait_s=3_600.0)

    for n in range(100):
        store.save(point(n, "text" if n == 50 else n))
    await store.close()

    assert values(influx_server, database) == [n for n in range(100) if n != 50]
    assert store.counts == PointCounts(written=99, retried=0, dropped=1)


async def test_a_bucket_may_name_a_retention_policy(influx_server: InfluxServer) -> None:
    if influx_server.has_buckets:
        pytest.skip("InfluxDB 2 has no retention policies; 1.8 has")
    database = influx_server.create_database()
    store = open_store(influx_server, f"{database}/autogen")

    store.save(point(1, 1))
    await store.close()

    assert values(influx_server, database) == [1]


async def test_a_database_that_does_not_exist_loses_the_points_and_is_told(
    influx_server: InfluxServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(influx_server, "nowhere")

    store.save(point(1, 1))
    await store.close()

    assert store.counts == PointCounts(written=0, retried=0, dropped=1)
    assert "not found" in caplog.text
    assert "KRT_INFLUX_BUCKET" in caplog.text


async def test_points_that_were_saved_while_the_server_was_away_are_written_when_it_is_back(
    influx_server: InfluxServer,
) -> None:
    if not influx_server.is_ours:
        pytest.skip("the server of KRT_TEST_INFLUX_URI is not ours to stop")
    database = influx_server.create_database()
    store = open_store(influx_server, database)
    store.save(point(0, 0))
    await until(lambda: store.counts.written == 1)

    influx_server.stop_engine()
    for n in range(1, 1_500):
        store.save(point(n, n))
    await until(lambda: store.counts.retried > 0)
    influx_server.start_engine()
    await until(lambda: store.counts.written == 1_500)

    assert values(influx_server, database) == list(range(1_500))
    assert store.counts.dropped == 0
    await store.close()
