"""Contracts of the stores, chosen by URI scheme. Implementations do not repeat what stands here.

`DocumentStore` (MongoDB, or SQLite when embedded) keeps documents: JSON objects with an `_id`. `PointStore` (InfluxDB,
or SQLite when embedded) keeps measurements. Neither is contacted before its first use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """One document on its way into a collection.

    document: JSON values only; integers within 64 bits (signed), no NaN and no infinity.
    document_id: the deterministic id (24 hex digits). With it the insert is an upsert that only sets on insert: first
        write wins, a repeat is success. Without it the store makes an id.

    A document's own `_id` (text or integer) is kept and wins over `document_id`.
    """

    collection: str
    document: Document
    document_id: str = ""


class DocumentStore(Protocol):
    """Documents by collection; integers stay integers, floats floats, and key order is kept."""

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        """Store all, and return one entry per insert in their order: None once it is durable, else its error.

        One failing document fails no other. Entries are `DuplicateDocumentError` (own `_id` taken by another content;
        the same content again is success), `DocumentError`, or `StoreUnavailableError` (worth a retry).

        Raises StoreUnavailableError (worth a retry) or StoreError (a person has to act): nothing is known about any
        of them; repeating with the same ids is safe. Cancelling is safe in the same sense.
        """
        ...

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        """Return the matching documents, `_id` first; `limit` 0 means all.

        They come in order of insertion, unless the store answers by an index that a user has made.

        `query` is MongoDB's; an empty one matches everything.
        Raises QueryError for an operator or a value that is not supported, else as `insert_many` does.
        """
        ...

    async def close(self) -> None:
        """Release files and connections. Further calls raise StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement. time_ns: nanoseconds since 1970, UTC. Field values: float, int, bool or str; tags: str."""

    measurement: str
    fields: Mapping[str, float | int | bool | str]
    tags: Mapping[str, str]
    time_ns: int


@dataclass(slots=True)
class PointCounts:
    """What became of the points of this process."""

    written: int = 0
    retried: int = 0
    dropped: int = 0


class PointStore(Protocol):
    """Measurements. Saving never blocks, never raises for the store's sake and is bounded in memory."""

    counts: PointCounts

    def save(self, point: Point) -> None:
        """Queue one point (under 50 µs). Thread-safe.

        Dropped and counted: the oldest point of a full queue, a point without fields, one saved after `close`.
        """
        ...

    async def write(self, points: Sequence[Point]) -> None:
        """Store points past the queue; returns once they are stored. One that is there already is not stored again:
        measurement, tags and time tell it.

        Raises StoreUnavailableError (worth a retry), or StoreError when one of them is refused. Cancelling leaves open
        what is stored.
        """
        ...

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        """Return the stored points of a measurement, oldest first; for tests and the command line.

        Queued points are not among them yet. Raises StoreUnavailableError or StoreError.
        """
        ...

    async def close(self) -> None:
        """Write what is queued (2 s at most), then release everything. What could not be written counts as dropped."""
        ...
