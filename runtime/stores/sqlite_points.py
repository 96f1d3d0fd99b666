"""Measurements in one SQLite file: the embedded stand-in for InfluxDB, behind the same contract.

Saving only appends to a bounded queue. One thread writes what is queued, in batches; it is started by the first point,
and nothing of it can fail or delay a message.
"""

import asyncio
import collections
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence

import orjson

from runtime.errors import StoreError, StoreUnavailableError
from runtime.stores.base import Point, PointCounts
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
# Points that wait at most; about 10 MB. Beyond it the oldest is dropped.
MAX_QUEUED = 10_000
# A batch is written when it has this many points, or when its first point has waited this long (seconds).
BATCH_POINTS = 1_000
BATCH_WAIT_S = 1.0
# Pause before a batch is tried again, in seconds: the first one, doubled each time, and the longest.
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 5.0
# How long one attempt waits for another process that writes; short, so that closing keeps its time.
BUSY_TIMEOUT_S = 0.5
# What `close` may take in all, in seconds.
CLOSE_S = 2.0

_INSERT = "INSERT INTO points (measurement, time_ns, tags, fields) VALUES (?, ?, ?, ?)"

log = logging.getLogger(__name__)


class SqlitePointStore:
    """See `PointStore`. A batch is one transaction that survives a killed process (`synchronous = NORMAL`)."""

    def __init__(self, path: str, *, max_queued: int = MAX_QUEUED, batch_wait_s: float = BATCH_WAIT_S) -> None:
        self.counts = PointCounts()
        self._path = path
        self._max_queued = max_queued
        self._batch_wait_s = batch_wait_s
        self._queue: collections.deque[Point] = collections.deque()
        # Guards the queue, the counts and `_close_at`; the thread waits on it.
        self._changed = threading.Condition()
        self._close_at: float | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None

    def save(self, point: Point) -> None:
        with self._changed:
            if not point.fields or self._close_at is not None:
                self.counts.dropped += 1
                return
            if len(self._queue) >= self._max_queued:
                self._queue.popleft()
                self.counts.dropped += 1
            self._queue.append(point)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="sqlite-points", daemon=True)
                self._thread.start()
            elif len(self._queue) in (1, BATCH_POINTS):
                self._changed.notify()

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        return await asyncio.to_thread(self._read, measurement, limit)

    async def close(self) -> None:
        with self._changed:
            self._close_at = self._close_at or time.monotonic() + CLOSE_S
            self._changed.notify()
        if self._thread is not None:
            # A disk that hangs does not hold the process: the thread is a daemon.
            await asyncio.to_thread(self._thread.join, CLOSE_S + BUSY_TIMEOUT_S)

    def _read(self, measurement: str, limit: int) -> list[Point]:
        statement = "SELECT fields, tags, time_ns FROM points WHERE measurement = ? ORDER BY time_ns, seq LIMIT ?"
        try:
            with contextlib.closing(self._connect()) as connection:
                rows = connection.execute(statement, (measurement, limit or -1)).fetchall()
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error
        return [Point(measurement, orjson.loads(fields), orjson.loads(tags), time_ns) for fields, tags, time_ns in rows]

    # --- the thread ---

    def _write_all(self) -> None:
        """Write batches until the store is closed and its queue is empty or out of time."""
        retry_s = 0.0
        while batch := self._next_batch(retry_s):
            retry_s = self._try_batch(batch, retry_s)
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self, retry_s: float) -> list[Point]:
        """Wait for a batch, after a failure for `retry_s`; an empty one means the end."""
        with self._changed:
            if retry_s and self._close_at is not None:
                self._changed.wait(FIRST_RETRY_S)
            elif retry_s:
                self._changed.wait_for(self._is_closing, retry_s)
            self._changed.wait_for(lambda: self._queue or self._is_closing())
            self._changed.wait_for(self._batch_is_due, self._batch_wait_s)
            if self._close_at is not None and time.monotonic() > self._close_at - BUSY_TIMEOUT_S:
                self.counts.dropped += len(self._queue)
                self._queue.clear()
            return [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_POINTS))]

    def _is_closing(self) -> bool:
        return self._close_at is not None

    def _batch_is_due(self) -> bool:
        return len(self._queue) >= BATCH_POINTS or self._is_closing()

    def _try_batch(self, batch: list[Point], retry_s: float) -> float:
        """Write one batch. Returns the pause before the next one in seconds, 0 after a success."""
        try:
            self._write(batch)
        except StoreError as error:
            passing = isinstance(error, StoreUnavailableError)
            if not retry_s:
                log.warning("measurements %s: %s", "wait" if passing else "are lost", error, extra={"action": "points"})
            if passing:
                self._put_back(batch)
            else:
                self._lose(batch)
            return min(retry_s * 2 or FIRST_RETRY_S, MAX_RETRY_S)
        with self._changed:
            self.counts.written += len(batch)
        return 0.0

    def _write(self, batch: Sequence[Point]) -> None:
        try:
            rows = [_row(point) for point in batch]
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                self._connection.executemany(_INSERT, rows)
        except sqlite3.Error as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise store_error(error, self._path) from error
        except orjson.JSONEncodeError as error:
            raise StoreError(f"a point with a value that is no number, boolean or text: {error}") from error

    def _put_back(self, batch: list[Point]) -> None:
        """Queue a batch again before what came meanwhile; what has no room any more is its oldest part."""
        with self._changed:
            room = self._max_queued - len(self._queue)
            lost = max(len(batch) - room, 0)
            self.counts.retried += len(batch) - lost
            self.counts.dropped += lost
            self._queue.extendleft(reversed(batch[lost:]))

    def _lose(self, batch: list[Point]) -> None:
        with self._changed:
            self.counts.dropped += len(batch)

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, SCHEMA, synchronous="NORMAL", busy_timeout_s=BUSY_TIMEOUT_S)


def _row(point: Point) -> tuple[str, int, str, str]:
    tags, fields = orjson.dumps(dict(point.tags)), orjson.dumps(dict(point.fields))
    return point.measurement, point.time_ns, tags.decode(), fields.decode()
