"""Measurements in one SQLite file: the embedded stand-in for InfluxDB, behind the same contract."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Sequence

import orjson

from runtime.errors import StoreError
from runtime.stores.base import Point
from runtime.stores.point_queue import BATCH_WAIT_S, MAX_QUEUED, QueuedPoints
from runtime.stores.sqlite_file import connect, store_error

SCHEMA = """
CREATE TABLE IF NOT EXISTS points (
    seq INTEGER PRIMARY KEY,
    measurement TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    tags TEXT NOT NULL,
    fields TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS points_in_order ON points (measurement, time_ns);
"""
# How long one attempt waits for another process that writes, in seconds; short, so that closing keeps its time.
BUSY_TIMEOUT_S = 0.5

_INSERT = "INSERT INTO points (measurement, time_ns, tags, fields) VALUES (?, ?, ?, ?)"
_INSERT_ONCE = """
INSERT INTO points (measurement, time_ns, tags, fields) SELECT ?1, ?2, ?3, ?4
    WHERE NOT EXISTS (SELECT 1 FROM points WHERE measurement = ?1 AND time_ns = ?2 AND tags = ?3)
"""


class SqlitePointStore(QueuedPoints):
    """See `PointStore`. A batch is one transaction that survives a killed process (`synchronous = NORMAL`)."""

    def __init__(self, path: str, *, max_queued: int = MAX_QUEUED, batch_wait_s: float = BATCH_WAIT_S) -> None:
        super().__init__(
            thread_name="sqlite-points",
            max_queued=max_queued,
            batch_wait_s=batch_wait_s,
            last_attempt_s=BUSY_TIMEOUT_S,
        )
        self._path = path
        self._connection: sqlite3.Connection | None = None
        # Held by the thread that uses the connection.
        self._using = threading.Lock()

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        return await asyncio.to_thread(self._read, measurement, limit)

    def _read(self, measurement: str, limit: int) -> list[Point]:
        statement = "SELECT fields, tags, time_ns FROM points WHERE measurement = ? ORDER BY time_ns, seq LIMIT ?"
        try:
            with contextlib.closing(self._connect()) as connection:
                rows = connection.execute(statement, (measurement, limit or -1)).fetchall()
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error
        return [Point(measurement, orjson.loads(fields), orjson.loads(tags), time_ns) for fields, tags, time_ns in rows]

    def _write(self, batch: Sequence[Point], *, once: bool = False) -> int:
        try:
            self._insert(_INSERT_ONCE if once else _INSERT, [_row(point) for point in batch])
        except sqlite3.Error as error:
            self._release()
            raise store_error(error, self._path) from error
        except orjson.JSONEncodeError as error:
            raise StoreError(f"a point with a value that is no number, boolean or text: {error}") from error
        return 0

    def _insert(self, statement: str, rows: list[tuple[str, int, str, str]]) -> None:
        with self._using:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                self._connection.executemany(statement, rows)

    def _release(self) -> None:
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, SCHEMA, synchronous="NORMAL", busy_timeout_s=BUSY_TIMEOUT_S)


def _row(point: Point) -> tuple[str, int, str, str]:
    tags, fields = orjson.dumps(dict(point.tags)), orjson.dumps(dict(point.fields))
    return point.measurement, point.time_ns, tags.decode(), fields.decode()
