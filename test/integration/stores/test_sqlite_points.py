"""Measurements in SQLite when the file fails, is locked, or the points come faster than they are written."""

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

import pytest

from runtime.stores.base import Point, PointCounts
from runtime.stores.point_queue import CLOSE_S
from runtime.stores.sqlite_points import SqlitePointStore
from test.support.waiting import until

# Seconds after which a state that has to come counts as missed.
PATIENCE_S = 10.0


def point(n: int) -> Point:
    return Point("m", {"n": n}, {"node": "score"}, 1_700_000_000_000_000_000 + n)


def at_one_time(n: int) -> Point:
    """Return a point that only the order of writing tells from the others."""
    return Point("m", {"n": n}, {}, 1)


async def numbers(path: Path) -> list[object]:
    store = SqlitePointStore(str(path))
    points = await store.query("m")
    await store.close()
    return [found.fields["n"] for found in points]


async def test_a_full_batch_is_written_without_waiting(tmp_path: Path) -> None:
    store = SqlitePointStore(str(tmp_path / "store.db"), batch_wait_s=3_600.0)

    for n in range(1_000):
        store.save(point(n))
    await until(lambda: store.counts.written == 1_000)

    assert await numbers(tmp_path / "store.db") == list(range(1_000))
    await store.close()


async def test_a_small_batch_is_written_when_its_time_has_come(tmp_path: Path) -> None:
    store = SqlitePointStore(str(tmp_path / "store.db"), batch_wait_s=0.01)

    store.save(point(1))
    await until(lambda: store.counts.written == 1)
    store.save(point(2))
    await until(lambda: store.counts.written == 2)

    assert await numbers(tmp_path / "store.db") == [1, 2]
    await store.close()


async def test_a_full_queue_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    store = SqlitePointStore(str(tmp_path / "store.db"), max_queued=10, batch_wait_s=3_600.0)

    for n in range(25):
        store.save(point(n))
    await store.close()

    assert store.counts == PointCounts(written=10, retried=0, dropped=15)
    assert await numbers(tmp_path / "store.db") == list(range(15, 25))


async def test_points_wait_while_the_file_is_locked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store.db"
    assert await numbers(path) == []
    store = SqlitePointStore(str(path), batch_wait_s=0.01)

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for n in range(3):
            store.save(at_one_time(n))
        await until(lambda: store.counts.retried > 0)
        store.save(at_one_time(3))
    await until(lambda: store.counts.written == 4)

    assert await numbers(path) == [0, 1, 2, 3]
    assert store.counts.dropped == 0
    assert [record.levelno for record in caplog.records if record.action == "points"] == [logging.WARNING]  # type: ignore[attr-defined]  # set through `extra`
    await store.close()


async def test_closing_gives_up_in_time_and_counts_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert await numbers(path) == []
    store = SqlitePointStore(str(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for n in range(1_500):
            store.save(point(n))

        start = time.monotonic()
        await store.close()
        took_s = time.monotonic() - start

    assert took_s < CLOSE_S + 0.5
    assert (store.counts.written, store.counts.dropped) == (0, 1_500)


async def test_a_file_that_cannot_be_used_loses_points_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.db").write_bytes(b"no database " * 100)
    store = SqlitePointStore(str(tmp_path / "store.db"))

    for n in range(3):
        store.save(point(n))
    await store.close()

    assert store.counts == PointCounts(written=0, retried=0, dropped=3)
    assert "measurements are lost" in caplog.text


async def test_a_point_with_an_impossible_value_does_not_end_the_writing(tmp_path: Path) -> None:
    store = SqlitePointStore(str(tmp_path / "store.db"), batch_wait_s=0.0)

    store.save(Point("m", {"n": object()}, {}, 1))  # type: ignore[dict-item]  # what no checked point holds
    await until(lambda: store.counts.dropped == 1)
    store.save(point(1))
    await store.close()

    assert store.counts == PointCounts(written=1, retried=0, dropped=1)
    assert await numbers(tmp_path / "store.db") == [1]


async def test_saving_takes_less_than_50_microseconds(tmp_path: Path) -> None:
    store = SqlitePointStore(str(tmp_path / "store.db"))
    store.save(point(0))
    durations = []
    for n in range(5_000):
        start = time.perf_counter()
        store.save(point(n))
        durations.append(time.perf_counter() - start)

    await store.close()

    # The median: a single call may wait for the interpreter, which another thread holds.
    assert sorted(durations)[len(durations) // 2] < 50e-6
