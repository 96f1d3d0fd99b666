"""Documents in MongoDB, through Motor. The one module that knows Motor, PyMongo and BSON.

Everything is a plain insert with an `_id` made here, and an `_id` that is taken already counts as a repeat. An upsert
with `$setOnInsert` would say the same, but MongoDB sorts the keys that an update operator sets and reads dots in them
as paths, so neither key order nor keys would be kept. Differences to the embedded store: `docs/stores.md`.
"""

import asyncio
import contextlib
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidName,
    OperationFailure,
    PyMongoError,
)
from pymongo.write_concern import WriteConcern

from runtime.errors import (
    ConfigError,
    DocumentError,
    DuplicateDocumentError,
    QueryError,
    StoreError,
    StoreUnavailableError,
)
from runtime.stores.base import Document, Insert
from runtime.stores.json_values import plain
from runtime.stores.query import compile_query

# What the client does where the URI does not say otherwise.
CLIENT_OPTIONS: Mapping[str, Any] = {
    # How long a server or a new primary is looked for. A node asks again after 10 s (`documents.ANSWER_TIMEOUT_S`); the
    # writer's `retryable` has to come before that.
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    # How long one reply may take; PyMongo's own default is for ever, and a cut line would hold the writer as long.
    "socketTimeoutMS": 30_000,
    # Connections of one process. A writer needs one and a node one per search at a time, but there are many nodes.
    "maxPoolSize": 10,
    # How long a search waits for a free connection, in place of for ever.
    "waitQueueTimeoutMS": 5_000,
    # One repetition by the driver hides an election or a lost connection; the server knows a repeated write again.
    "retryWrites": True,
    "retryReads": True,
    "appname": "krt",
}
# An answered document survives the loss of the primary. Where no majority answers in time (ms), it is not answered.
WRITE_CONCERN = WriteConcern("majority", wtimeout=5_000)
# Largest document as BSON, in bytes: what the server takes.
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

# Codes of the server, from its error_codes.yml.
_DUPLICATE_KEY = 11000
_BAD_QUERY = {2, 9, 51091}  # BadValue, FailedToParse, a pattern that PCRE does not take
_REFUSED_NAME = {73, 166}  # InvalidNamespace, CommandNotSupportedOnView
_AUTHENTICATION = {18, 8000}  # AuthenticationFailed, and Atlas's own
_UNAUTHORIZED = 13
_PASSING = {
    6, 7, 43, 50, 64, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031,
}  # fmt: skip  # hosts and sockets, cursors, time limits, elections, shutdowns, conflicts, a full disk

_RAW = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One insert as it is stored. `own_id`: the id was chosen by the user, so another content is a conflict."""

    position: int
    collection: str
    id: str | int | ObjectId
    body: RawBSONDocument
    own_id: bool


class MongoDocumentStore:
    """See `DocumentStore`. Motor works in threads of its own; one client serves all calls of a process."""

    def __init__(self, uri: str, database: str = "data") -> None:
        """Raises ConfigError for a URI or a name that is none; nothing is contacted, not even the DNS."""
        self._address = address_of(uri)
        self._client = _open_client(uri)
        try:
            self._database = self._client.get_database(database, write_concern=WRITE_CONCERN)
        except InvalidName as error:
            raise ConfigError(f"'{database}' is no name of a MongoDB database: {error}") from error
        self._closed = False

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        self._check_open()
        # A batch may hold many MiB to encode, which would hold the loop.
        prepared = await asyncio.to_thread(lambda: [_prepare(*numbered) for numbered in enumerate(inserts)])
        outcomes: list[Exception | None] = [None if isinstance(entry, Entry) else entry for entry in prepared]
        batches = defaultdict[str, list[Entry]](list)
        for entry in prepared:
            if isinstance(entry, Entry):
                batches[entry.collection].append(entry)
        with self._translating():
            for batch in batches.values():
                for position, error in (await self._insert_batch(batch)).items():
                    outcomes[position] = error
        return outcomes

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        self._check_open()
        compile_query(query)  # refuses what the embedded store refuses, so that a workflow runs on both
        criteria = with_object_ids(plain(query, QueryError))
        with self._translating(collection):
            cursor = self._database.get_collection(collection).find(criteria, limit=limit)
            return [_from_bson(document) for document in await cursor.to_list(None)]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # It takes leave of the server and waits for threads.
        await asyncio.to_thread(self._client.close)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self._address}: this store is closed")

    async def _insert_batch(self, batch: Sequence[Entry]) -> dict[int, Exception]:
        """Store the entries of one collection in one unordered bulk; returns the errors by position."""
        name = batch[0].collection
        try:
            collection = self._database.get_collection(name, codec_options=_RAW)
            await collection.insert_many([entry.body for entry in batch], ordered=False)
        except BulkWriteError as error:
            return await self._explain(collection, batch, error.details)
        except (InvalidName, OperationFailure) as error:
            if isinstance(error, OperationFailure) and error.code not in _REFUSED_NAME:
                raise
            return {
                entry.position: DocumentError(f"'{name}' is no usable collection: {_text(error)}") for entry in batch
            }
        return {}

    async def _explain(
        self, collection: AsyncIOMotorCollection[Any], batch: Sequence[Entry], details: Mapping[str, Any]
    ) -> dict[int, Exception]:
        """Return the errors of a bulk of which a part failed, by position."""
        if concerns := details["writeConcernErrors"]:
            raise StoreUnavailableError(f"{self._address}: no majority has the documents yet: {concerns[0]['errmsg']}")
        faults = [(batch[fault["index"]], fault) for fault in details["writeErrors"]]
        taken = [entry.id for entry, fault in faults if fault["code"] == _DUPLICATE_KEY]
        holders = await collection.find({"_id": {"$in": taken}}).to_list(None) if taken else []
        bodies = {holder["_id"]: holder.raw for holder in holders}
        errors = {entry.position: self._entry_error(entry, fault, bodies) for entry, fault in faults}
        return {position: error for position, error in errors.items() if error is not None}

    def _entry_error(
        self, entry: Entry, fault: Mapping[str, Any], bodies: Mapping[str | int | ObjectId, bytes]
    ) -> StoreError | None:
        """Return the error of one document, None when it is a repeat. bodies: what is stored under the taken ids."""
        if fault["code"] in _PASSING:
            return StoreUnavailableError(f"{self._address}: {fault['errmsg']}")
        if fault["code"] != _DUPLICATE_KEY:
            return DocumentError(f"collection '{entry.collection}' refuses the document: {fault['errmsg']}")
        if entry.id not in bodies:
            fields = ", ".join(f"'{field}'" for field in fault.get("keyPattern", {})) or "other fields"
            return DuplicateDocumentError(
                f"a unique index of collection '{entry.collection}' holds another document with the same {fields}"
            )
        if not entry.own_id or bodies[entry.id] == entry.body.raw:
            return None
        return DuplicateDocumentError(
            f"collection '{entry.collection}' holds another document with the _id {entry.id!r}; choose another _id"
        )

    @contextlib.contextmanager
    def _translating(self, searched: str = "") -> Iterator[None]:
        """Turn errors of PyMongo into ours. searched: the collection of a search, "" for a write."""
        try:
            yield
        except (InvalidName, BSONError) as error:
            raise QueryError(f"collection '{searched}' cannot be searched so: {_text(error)}") from error
        except OperationFailure as error:
            if searched and error.code in _BAD_QUERY:
                raise QueryError(f"MongoDB does not take this query: {_text(error)}") from error
            raise self._refusal(error) from error
        except (ConnectionFailure, ConfigurationError) as error:
            # A ConfigurationError comes at this point only from looking up a mongodb+srv name.
            raise StoreUnavailableError(f"{self._address}: {_text(error)}") from error
        except PyMongoError as error:
            raise StoreError(f"{self._address}: {_text(error)}") from error

    def _refusal(self, error: OperationFailure) -> StoreError:
        if error.code in _AUTHENTICATION:
            return StoreError(
                f"{self._address}: authentication failed; check user, password and authSource in KRT_MONGO_URI"
            )
        if error.code == _UNAUTHORIZED:
            return StoreError(
                f"{self._address}: the user of KRT_MONGO_URI has no right to this; grant it the role 'readWrite'"
                f" on the database '{self._database.name}'"
            )
        if error.code in _PASSING or error.has_error_label("RetryableWriteError"):
            return StoreUnavailableError(f"{self._address}: {_text(error)}")
        return StoreError(f"{self._address}: {_text(error)}")


def address_of(uri: str) -> str:
    """Return scheme and hosts of a URI, without user, password, database and options: what an error may show."""
    scheme, _, rest = uri.partition("://")
    authority = rest.partition("?")[0].rpartition("@")[2].partition("/")[0]
    return f"{scheme}://{authority}"


def _open_client(uri: str) -> AsyncIOMotorClient[Any]:
    # An argument would win over the URI, in which names have no case.
    given = {name.lower() for name, _ in urllib.parse.parse_qsl(uri.partition("?")[2], keep_blank_values=True)}
    options = {name: value for name, value in CLIENT_OPTIONS.items() if name.lower() not in given}
    try:
        return AsyncIOMotorClient(uri, **options)
    except (PyMongoError, ValueError) as error:
        # PyMongo's text may quote a piece of the password, so neither it nor its traceback is passed on.
        reason = type(error).__name__
    raise ConfigError(
        f"KRT_MONGO_URI is no address that MongoDB's driver takes ({reason}): write"
        " 'mongodb://user:password@host:port/?options', with :/?#[]@% in user and password percent-encoded"
    )


def _text(error: Exception) -> str:
    """Return the first part of an error's text; behind it PyMongo shows its whole view of the servers, or the reply."""
    return str(error).partition(", full error: ")[0].partition(", Timeout: ")[0].partition(" (configured timeouts")[0]


# --- documents on their way in and out ---


def _prepare(position: int, insert: Insert) -> Entry | DocumentError:
    """Return an insert as it is stored, or why it cannot be."""
    try:
        document = plain(insert.document, DocumentError)
        own_id = "_id" in document
        document_id = _checked_id(document.pop("_id")) if own_id else ObjectId(insert.document_id or None)
        body = bson.encode({"_id": document_id, **document})
    except BSONError as error:
        return DocumentError(f"the document has no form in BSON: {error}")
    except DocumentError as error:
        return error
    if len(body) > MAX_DOCUMENT_BYTES:
        return DocumentError(f"the document has {len(body):,} bytes as BSON, at most {MAX_DOCUMENT_BYTES:,} are stored")
    return Entry(
        position=position,
        collection=insert.collection,
        id=document_id,
        body=RawBSONDocument(body),
        own_id=own_id,
    )


def _checked_id(value: Any) -> str | int:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return value
    raise DocumentError(f"'_id' is of type '{type(value).__name__}', expected text or an integer")


def _from_bson(value: Any) -> Any:
    """Return a stored value as JSON has it; BSON's types of other writers (dates) stay as PyMongo has them."""
    if isinstance(value, dict):
        return {key: _from_bson(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_bson(item) for item in value]
    if isinstance(value, ObjectId):
        return str(value)
    # PyMongo's Int64 is an int, but a class of its own.
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


# --- ids in queries ---


def with_object_ids(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query in which an `_id` of 24 hex digits means the ObjectId of that name as well as the text.

    with_object_ids({"_id": "…"})    # {"_id": {"$in": ["…", ObjectId("…")]}}
    """
    clauses = [_clause(key, value) for key, value in query.items()]
    return clauses[0] if len(clauses) == 1 else {"$and": clauses} if clauses else {}


def _clause(key: str, value: Any) -> dict[str, Any]:
    if key.startswith("$"):
        return {key: [with_object_ids(branch) for branch in value]}
    return _id_clause(value) if key == "_id" else {key: value}


def _id_clause(condition: Any) -> dict[str, Any]:
    if not isinstance(condition, dict) or not any(key.startswith("$") for key in condition):
        return {"_id": {"$in": _both_forms(condition)}}
    if "$regex" in condition:
        return {"_id": condition}
    clauses = [_id_operator(name, argument) for name, argument in condition.items()]
    return clauses[0] if len(clauses) == 1 else {"$and": clauses}


def _id_operator(name: str, argument: Any) -> dict[str, Any]:
    if name == "$not":
        return {"$nor": [_id_clause(argument)]}
    if name in ("$eq", "$in"):
        return {"_id": {"$in": _both_forms(*(argument if name == "$in" else [argument]))}}
    if name in ("$ne", "$nin"):
        return {"_id": {"$nin": _both_forms(*(argument if name == "$nin" else [argument]))}}
    return {"_id": {name: argument}}


def _both_forms(*ids: Any) -> list[Any]:
    return [form for own in ids for form in ([own, ObjectId(own)] if _is_object_id(own) else [own])]


def _is_object_id(value: Any) -> bool:
    return isinstance(value, str) and ObjectId.is_valid(value)
