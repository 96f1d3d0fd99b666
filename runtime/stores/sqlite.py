"""Documents in one SQLite file: the embedded stand-in for MongoDB, behind the same contract.

A document is one row: its collection, its `_id` in SQLite's own type, and its JSON text with `_id` first. Layout and
supported queries: `docs/stores.md`.
"""

import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.errors import DocumentError, DuplicateDocumentError
from runtime.stores.base import Document, Insert
from runtime.stores.json_values import plain
from runtime.stores.query import compile_query
from runtime.stores.sqlite_file import SqliteFile

SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    seq INTEGER PRIMARY KEY,
    database TEXT NOT NULL,
    collection TEXT NOT NULL,
    id NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (database, collection, id)
);
CREATE INDEX IF NOT EXISTS documents_in_order ON documents (database, collection, seq);
"""
# Largest document as JSON, in bytes: MongoDB's own limit, so that what fits here fits there.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
# How long a statement waits for another process that writes, in seconds. A batch of 500 takes about 10 ms.
BUSY_TIMEOUT_S = 5.0

_INSERT = "INSERT INTO documents (database, collection, id, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_SELECT = "SELECT body FROM documents WHERE database = ? AND collection = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One insert as it is stored. `own_id`: the id was chosen by the user, so another content is a conflict."""

    collection: str
    id: str | int
    body: str
    own_id: bool


class SqliteDocumentStore:
    """See `DocumentStore`. Any number of processes may use the same file at once; one of them writes at a time.

    A batch is one transaction with `synchronous = FULL`: when `insert_many` answers, the documents are on the disk, so
    neither a killed process nor a power cut loses them.
    """

    def __init__(self, path: str, database: str = "data", *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._database = database
        self._file = SqliteFile(
            path, SCHEMA, synchronous="FULL", busy_timeout_s=busy_timeout_s, thread_name="sqlite-documents"
        )

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        if not inserts:
            return []
        return await self._file.run(lambda connection: self._insert(connection, inserts))

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        matches = compile_query(query)
        condition, parameters = narrow(query)

        def search(connection: sqlite3.Connection) -> list[Document]:
            statement = f"{_SELECT}{condition} ORDER BY seq"
            with contextlib.closing(connection.execute(statement, (self._database, collection, *parameters))) as rows:
                documents = (orjson.loads(body) for (body,) in rows)
                return list(itertools.islice(filter(matches, documents), limit or None))

        return await self._file.run(search)

    async def close(self) -> None:
        await self._file.close()

    def _insert(self, connection: sqlite3.Connection, inserts: Sequence[Insert]) -> list[Exception | None]:
        prepared = [_prepare(insert) for insert in inserts]
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            return [row if isinstance(row, DocumentError) else self._insert_row(connection, row) for row in prepared]

    def _insert_row(self, connection: sqlite3.Connection, row: Row) -> Exception | None:
        inserted = connection.execute(_INSERT, (self._database, row.collection, row.id, row.body)).rowcount
        if inserted or not row.own_id:
            return None
        statement = f"{_SELECT} AND id = ?"
        (body,) = connection.execute(statement, (self._database, row.collection, row.id)).fetchone()
        if body == row.body:
            return None
        return DuplicateDocumentError(
            f"collection '{row.collection}' holds another document with the _id {row.id!r}; choose another _id"
        )


def _prepare(insert: Insert) -> Row | DocumentError:
    """Return the row of an insert, or why it cannot be stored."""
    try:
        document = plain(insert.document, DocumentError)
        own_id = "_id" in document
        document_id = _checked_id(document.pop("_id")) if own_id else insert.document_id or secrets.token_hex(12)
        body = orjson.dumps({"_id": document_id, **document})
        if len(body) > MAX_DOCUMENT_BYTES:
            raise DocumentError(
                f"the document has {len(body):,} bytes as JSON, at most {MAX_DOCUMENT_BYTES:,} are stored"
            )
    except DocumentError as error:
        return error
    return Row(collection=insert.collection, id=document_id, body=body.decode(), own_id=own_id)


def _checked_id(value: Any) -> str | int:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return value
    raise DocumentError(f"'_id' is of type '{type(value).__name__}', expected text or an integer")


# --- narrowing a search in SQLite ---


def narrow(query: Mapping[str, Any]) -> tuple[str, list[str | int]]:
    """Return SQL (beginning with AND) that keeps every row which the query can match, and its parameters.

    It may keep more: the predicate decides. Only equality with text and integers is passed on, which saves parsing
    most rows in Python; a row with an array on the way is kept for Python to look at.
    """
    clauses, parameters = [], list[str | int]()
    for path, wanted in query.items():
        if not _is_narrowing(wanted):
            continue
        if path == "_id":
            clauses.append(" AND id = ?")
        elif all(_is_simple_key(part) for part in path.split(".")):
            clauses.append(f" AND {_json_condition(path)}")
        else:
            continue
        parameters.append(wanted)
    return "".join(clauses), parameters


def _is_narrowing(value: Any) -> bool:
    if type(value) is str:
        # Text that JSON writes with a backslash is left to Python: SQLite's JSON ends at an escaped NUL.
        return orjson.dumps(value).decode() == f'"{value}"'
    return type(value) is int


def _is_simple_key(part: str) -> bool:
    return part.isidentifier() and part.isascii()


def _json_condition(path: str) -> str:
    parts = path.split(".")
    prefixes = [".".join(parts[: end + 1]) for end in range(len(parts))]
    arrays = "".join(f" OR json_type(body, '$.{prefix}') = 'array'" for prefix in prefixes)
    return f"(json_extract(body, '$.{path}') = ?{arrays})"
