"""One SQLite file as a store uses it: opened at first use, in one thread of its own, shared with other processes.

Owns the connection, its settings and the translation of SQLite's errors. What is in the tables belongs to the stores.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from runtime.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

# FULL: a commit has reached the disk. NORMAL: it has reached the operating system, which a killed process cannot undo
# but a power cut can.
Synchronous = Literal["FULL", "NORMAL"]

# Pause between attempts to switch a file to WAL while another process does the same (SQLite does not wait there).
_WAL_RETRY_S = 0.01

# What a person can do, by SQLite's primary result code; the first group passes by itself.
_PASSING = {
    sqlite3.SQLITE_BUSY: "another process holds the file for too long",
    sqlite3.SQLITE_LOCKED: "another connection holds a table for too long",
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_IOERR: "the disk answers with errors: check the disk and its space",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}
_LASTING = {
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore it, or move it away and start with an empty one",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: name another path, or move the file away",
    sqlite3.SQLITE_READONLY: "the file cannot be written: check the rights of the file and of its folder",
    sqlite3.SQLITE_PERM: "the file cannot be opened: check the rights of the file and of its folder",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: check that its folder exists and can be written",
}


def connect(path: str, schema: str, *, synchronous: Synchronous, busy_timeout_s: float) -> sqlite3.Connection:
    """Open the file and create what is missing of the schema. Blocks; belongs in a thread.

    busy_timeout_s: how long a statement waits for another process that writes.
    Raises StoreUnavailableError or StoreError. The connection may be used in any thread, by one at a time.
    """
    try:
        connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    try:
        _switch_to_wal(connection, busy_timeout_s)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.executescript(schema)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(error, path) from error
    return connection


def _switch_to_wal(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Let readers read while one process writes. The mode stays in the file, so this is a switch only once."""
    give_up_at = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up_at:
                raise
            time.sleep(_WAL_RETRY_S)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 when Python raised the error by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """Return the error of our tree for one of SQLite's, with the path and what to do."""
    code = primary_code(error)
    if code in _PASSING:
        return StoreUnavailableError(f"{path}: {error}; {_PASSING[code]}")
    return StoreError(f"{path}: {error}; {_LASTING.get(code, 'the embedded store cannot go on')}")


class SqliteFile:
    """Runs blocking work on one file in one thread, in the order of the calls.

    After an error of SQLite the connection is given up (which rolls back), and the next work begins with a fresh one.
    """

    def __init__(
        self, path: str, schema: str, *, synchronous: Synchronous, busy_timeout_s: float, thread_name: str
    ) -> None:
        self.path = path
        self._schema = schema
        self._synchronous: Synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name)
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work in the thread. Cancelling does not stop it; what it commits stays.

        Raises StoreUnavailableError or StoreError for SQLite's errors, and whatever else the work raises.
        """
        if self._closed:
            raise StoreError(f"{self.path}: this store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    async def close(self) -> None:
        """Wait for the work in hand, then close the file. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = connect(
                self.path, self._schema, synchronous=self._synchronous, busy_timeout_s=self._busy_timeout_s
            )
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            self._disconnect()
            raise store_error(error, self.path) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
