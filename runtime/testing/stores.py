"""Documents and measurements in memory, with the same query language and the same refusals as the embedded stores."""

import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from runtime.errors import DocumentError, DuplicateDocumentError, StoreError
from runtime.stores.base import Document, Insert, Point, PointCounts
from runtime.stores.json_values import plain
from runtime.stores.query import compile_query

# Documents by collection, then by `_id`, in order of insertion; the type keeps the ids 1 and "1" apart.
Collections = dict[str, dict[str | int, Document]]

# Largest document as JSON: what MongoDB takes.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024


class MemoryDocuments:
    """See `stores.base.DocumentStore`: one client of `collections`, which its owner may look into at any time."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections
        self._closed = False

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        self._check_open()
        return [self.insert(insert) for insert in inserts]

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        self._check_open()
        found = filter(compile_query(query), self._collections.get(collection, {}).values())
        return [_copy(document) for document in itertools.islice(found, limit or None)]

    async def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def insert(self, insert: Insert) -> Exception | None:
        """Keep one document; returns what `insert_many` returns for it."""
        try:
            document = _prepare(insert)
        except DocumentError as error:
            return error
        known = self._collections.setdefault(insert.collection, {}).setdefault(document["_id"], document)
        if "_id" not in insert.document or orjson.dumps(known) == orjson.dumps(document):
            return None
        return DuplicateDocumentError(
            f"collection '{insert.collection}' holds another document with the _id {document['_id']!r};"
            " choose another _id"
        )


def _prepare(insert: Insert) -> Document:
    """Return the document as it is kept, `_id` first. Raises DocumentError."""
    values: Document = plain(insert.document, DocumentError)
    document_id = values.pop("_id") if "_id" in values else insert.document_id or secrets.token_hex(12)
    if isinstance(document_id, bool) or not isinstance(document_id, (str, int)):
        raise DocumentError(f"'_id' is of type '{type(document_id).__name__}', expected text or an integer")
    document = {"_id": document_id, **values}
    size_bytes = len(orjson.dumps(document))
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"the document has {size_bytes:,} bytes as JSON, at most {MAX_DOCUMENT_BYTES:,} are stored")
    return document


def _copy(document: Document) -> Document:
    copy: Document = orjson.loads(orjson.dumps(document))
    return copy


class MemoryPoints:
    """See `stores.base.PointStore`: appends to `kept`, which its owner may look into at any time."""

    def __init__(self, kept: list[Point]) -> None:
        self.counts = PointCounts()
        self._kept = kept

    def save(self, point: Point) -> None:
        if not point.fields:
            self.counts.dropped += 1
            return
        self.counts.written += 1
        self._kept.append(point)

    async def write(self, points: Sequence[Point]) -> None:
        self.counts.written += len(points)
        for point in points:
            if not any(_is_same(point, one) for one in self._kept):
                self._kept.append(point)

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        found = sorted((one for one in self._kept if one.measurement == measurement), key=lambda one: one.time_ns)
        return found[: limit or None]

    async def close(self) -> None:
        """There is nothing to release."""


def _is_same(point: Point, other: Point) -> bool:
    """Say whether two points have one place in a store."""
    return (point.measurement, point.tags, point.time_ns) == (other.measurement, other.tags, other.time_ns)
