"""The writer: receives documents from every node and stores them in batches. The first file to read about saving.

    node ──{"coll", "doc"} + id──▶ handle ──queue──▶ run: insert_many ──▶ the store
      ▲                                                     │
      └───────────────── {"success": …} ◀───────────────────┘ only after the store's answer

Knows nothing of NATS: whoever receives a request calls `handle` and sends back what it returns. Several writers may
work on the same store, for the documents' ids make a repetition harmless.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.errors import DecodeError, DocumentError, StoreError, StoreUnavailableError
from runtime.stores.base import DocumentStore, Insert
from runtime.stores.request import SUCCESS, decode_request, encode_failure
from runtime.wire import GZIP_MAGIC, MAX_INFLATED_BYTES, inflate

# Documents that go to the store at once. An idle store gets the first one without waiting; while it works, the next
# batch gathers. So a lone node is not held up by a timer, and under load a commit is shared by hundreds of documents.
BATCH_DOCUMENTS = 500
# Requests in hand at most, and their size as JSON: beyond it a node is told to try again. Twice the largest request.
MAX_REQUESTS = 10_000
MAX_REQUEST_BYTES = 2 * MAX_INFLATED_BYTES

_DOCUMENT_ID = re.compile(r"[0-9a-f]{24}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A document on its way into the store, and the future that gets None or its error."""

    insert: Insert
    outcome: asyncio.Future[Exception | None]


@dataclass(slots=True)
class WriterCounts:
    """Answered requests of this process: stored, refused for good, or postponed (the node asks again)."""

    stored: int = 0
    refused: int = 0
    postponed: int = 0

    def count(self, outcome: Exception | None) -> None:
        if outcome is None:
            self.stored += 1
        elif isinstance(outcome, StoreUnavailableError):
            self.postponed += 1
        else:
            self.refused += 1


class Writer:
    """Turns requests into batches. `run` has to be running; its failure has to end the process."""

    def __init__(
        self,
        store: DocumentStore,
        *,
        max_requests: int = MAX_REQUESTS,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_inflated_bytes: int = MAX_INFLATED_BYTES,
    ) -> None:
        self.counts = WriterCounts()
        self._store = store
        self._max_requests = max_requests
        self._max_request_bytes = max_request_bytes
        self._max_inflated_bytes = max_inflated_bytes
        self._requests = 0
        self._request_bytes = 0
        self._queue: list[Waiting] = []
        self._queued = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._unpacking = asyncio.Lock()
        self._closed = False
        self._store_fails = False

    async def handle(self, body: bytes, document_id: str = "") -> bytes:
        """Store one document and return the answer to its request; never raises for the request's sake.

        document_id: the header's value, "" for none. Cancelling leaves the writer usable; the document may be stored.
        """
        try:
            with self._in_hand(len(body), requests=1):
                outcome = await self._store_one(body, document_id)
        except (DecodeError, StoreError) as error:
            outcome = error
        self.counts.count(outcome)
        return SUCCESS if outcome is None else encode_failure(outcome)

    async def run(self) -> None:
        """Store batch after batch; returns after `close`. Cancelling answers the batch in hand with `retryable`."""
        while not self._closed:
            await self._queued.wait()
            self._queued.clear()
            await self._flush()

    async def close(self) -> None:
        """Refuse further requests, then store and answer what is queued. The store stays open."""
        self._closed = True
        await self._flush()
        self._queued.set()

    async def _store_one(self, body: bytes, document_id: str) -> Exception | None:
        if not body.startswith(GZIP_MAGIC):
            return await self._enqueue(_read(body, document_id))
        # One at a time: what is being unpacked is not yet counted.
        async with self._unpacking:
            unpacked = await asyncio.to_thread(inflate, body, self._max_inflated_bytes)
        with self._in_hand(len(unpacked), requests=0):
            return await self._enqueue(_read(unpacked, document_id))

    @contextlib.contextmanager
    def _in_hand(self, size_bytes: int, *, requests: int) -> Iterator[None]:
        """Count a request while it is worked on. Raises StoreUnavailableError when there is no room for it."""
        if self._requests + requests > self._max_requests or self._request_bytes + size_bytes > self._max_request_bytes:
            raise StoreUnavailableError(
                f"the writer has its hands full: {self._requests:,} requests with {self._request_bytes:,} bytes"
            )
        self._requests += requests
        self._request_bytes += size_bytes
        try:
            yield
        finally:
            self._requests -= requests
            self._request_bytes -= size_bytes

    def _enqueue(self, insert: Insert) -> asyncio.Future[Exception | None]:
        if self._closed:
            raise StoreUnavailableError("the writer is stopping")
        waiting = Waiting(insert, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued.set()
        return waiting.outcome

    async def _flush(self) -> None:
        async with self._flushing:
            while batch := self._queue[:BATCH_DOCUMENTS]:
                del self._queue[: len(batch)]
                await self._store_batch(batch)

    async def _store_batch(self, batch: Sequence[Waiting]) -> None:
        outcomes: list[Exception | None] = [StoreUnavailableError("the writer stopped before the store answered")]
        outcomes *= len(batch)
        try:
            outcomes = await self._store.insert_many([waiting.insert for waiting in batch])
            self._store_fails = False
        except StoreError as error:
            outcomes = [error] * len(batch)
            self._report(error)
        finally:
            # Also when this task is cancelled: a node that hears nothing would wait for its own time limit.
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if not waiting.outcome.done():
                    waiting.outcome.set_result(outcome)

    def _report(self, error: StoreError) -> None:
        """Log the first failure of an outage; the nodes log their own retries."""
        if not self._store_fails:
            log.warning("documents cannot be stored: %s", error, extra={"action": "store_failed"})
        self._store_fails = True


def _read(body: bytes, document_id: str) -> Insert:
    if document_id and not _DOCUMENT_ID.fullmatch(document_id):
        raise DocumentError(f"the document id {document_id!r} is no id, expected 24 hex digits in lower case")
    collection, document = decode_request(body)
    return Insert(collection=collection, document=document, document_id=document_id)
