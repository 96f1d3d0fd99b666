"""The node's side of saving: sends a document to the writer until it is stored, or says why it is not."""

import asyncio
import hashlib
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from runtime.clock import Clock
from runtime.errors import (
    BusUnavailableError,
    ContextError,
    DocumentError,
    KrtError,
    NoRespondersError,
    StoreError,
    StoreUnavailableError,
)
from runtime.stores.json_values import plain
from runtime.stores.request import check_answer, encode_request
from runtime.wire import fit

# Seconds that a save may take in all, if the request's deadline is not nearer (as KRE has it).
SAVE_TIMEOUT_S = 60.0
# Seconds that one writer gets to answer; then the request is sent again, for that writer may be gone.
ANSWER_TIMEOUT_S = 10.0
# Pause between attempts in seconds: the first one, doubled each time, and the longest. Half of it is chance.
FIRST_RETRY_S, MAX_RETRY_S = 0.1, 5.0

_PASSING = (NoRespondersError, BusUnavailableError, StoreUnavailableError)

log = logging.getLogger(__name__)


class Request(Protocol):
    """Asks a subject and returns the body of the answer. Raises NoRespondersError or BusUnavailableError."""

    async def __call__(self, subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes: ...


def derive_id(stream: str, origin: int | str, request_id: str, node: str, part: int | str) -> str:
    """Return the id of a document: the same for every delivery of the same input, so that a repeat changes nothing.

    origin: stream sequence of the (first) input, with its path in a fused chain. request_id: keeps apart the messages
    of two streams of one name, when the first was deleted and the documents were kept. part: how many documents this
    delivery has saved before, or what else tells it from them.
    """
    return hashlib.sha256(f"{stream}\0{origin}\0{request_id}\0{node}\0{part}".encode()).hexdigest()[:24]


class DocumentClient:
    """Saves documents through the writer.

    id_header: the header that carries a document's id. limit_bytes: called for every save, returns the largest message
    that the server takes now.
    """

    def __init__(
        self, request: Request, subject: str, clock: Clock, *, id_header: str, limit_bytes: Callable[[], int]
    ) -> None:
        self._request = request
        self._subject = subject
        self._clock = clock
        self._id_header = id_header
        self._limit_bytes = limit_bytes

    async def save(
        self, collection: str, document: Any, *, document_id: str = "", deadline_ms: int = 0, what: str = "data"
    ) -> str | int:
        """Store one document and return its id: its own `_id`, else `document_id`, else a new one.

        document_id: 24 hex digits, "" outside of a message. deadline_ms: unix time in milliseconds, 0 for none.
        what: `data` or `metric`, for the texts of the errors. Cancelling leaves open whether it is stored.
        Raises ContextError for an argument, DocumentError (a TypeError) with the key path of a value that cannot be
        stored, MessageTooLargeError, StoreError when it is refused, StoreUnavailableError when time is over.
        """
        _check_arguments(collection, document)
        values = plain(document, DocumentError)
        own_id = values.get("_id")
        document_id = document_id or secrets.token_hex(12)
        body = await self._encode(collection, values)
        await self._send_until_stored(body, document_id, self._give_up_at(deadline_ms), what)
        return own_id if isinstance(own_id, (str, int)) else document_id

    @property
    def limit_bytes(self) -> int:
        """Largest message that the server takes now."""
        return self._limit_bytes()

    async def forward(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        """Ask the writer once what another process asks for, and return its answer. Raises as `Request`."""
        return await self._request(self._subject, body, headers, timeout_s)

    async def _encode(self, collection: str, values: dict[str, Any]) -> bytes:
        body, limit_bytes = encode_request(collection, values), self.limit_bytes
        if len(body) <= limit_bytes // 2:
            return fit(body, limit_bytes)
        # It may have to be compressed, which would hold the loop.
        return await asyncio.to_thread(fit, body, limit_bytes)

    def _give_up_at(self, deadline_ms: int) -> float:
        """Return when to stop, in the clock's monotonic seconds."""
        left_s = SAVE_TIMEOUT_S
        if deadline_ms:
            left_s = min(left_s, deadline_ms / 1e3 - self._clock.time_ns() / 1e9)
        return self._clock.monotonic() + left_s

    async def _send_until_stored(self, body: bytes, document_id: str, give_up_at: float, what: str) -> None:
        pause_s, last_error = FIRST_RETRY_S, None
        while (left_s := give_up_at - self._clock.monotonic()) > 0:
            try:
                return await self._send(body, document_id, min(left_s, ANSWER_TIMEOUT_S))
            except _PASSING as error:
                self._report(error, first=last_error is None)
                last_error = error
            except StoreError as error:
                raise StoreError(f"Unexpected error saving {what}: {error}") from error
            await self._clock.sleep(min(pause_s * random.uniform(0.5, 1.0), give_up_at - self._clock.monotonic()))
            pause_s = min(pause_s * 2, MAX_RETRY_S)
        raise StoreUnavailableError(f"Error saving {what}: request timed out") from last_error

    async def _send(self, body: bytes, document_id: str, timeout_s: float) -> None:
        check_answer(await self._request(self._subject, body, {self._id_header: document_id}, timeout_s))

    def _report(self, error: KrtError, *, first: bool) -> None:
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, "saving through '%s' is retried: %s", self._subject, error, extra={"action": "save_retry"})


def _check_arguments(collection: Any, document: Any) -> None:
    if not isinstance(collection, str) or not collection:
        raise ContextError(f"[ctx.db.save] invalid 'collection'='{collection}', must be a nonempty string")
    if not isinstance(document, dict):
        raise ContextError(f"[ctx.db.save] invalid 'data'='{type(document)}', must be a dict")
