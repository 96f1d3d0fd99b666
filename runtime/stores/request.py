"""The bytes between a node and the writer: a document's way there, and the answer back. Pure.

The body is KRE's, so that a node of ours can use KRE's writer and the other way round: `{"coll": …, "doc": …}`,
gzipped when it is large; the document's id travels in a header. KRE's writer answers `success` and nothing else.
"""

import json
import re
from typing import Any

import orjson

from runtime.errors import DocumentError, StoreError, StoreUnavailableError
from runtime.stores.base import Document

# The answer for a stored document.
SUCCESS = orjson.dumps({"success": True})

# Digits that may be an integer beyond 64 bits.
_LONG_NUMBER = re.compile(rb"[0-9]{20}")


def encode_request(collection: str, document: Document) -> bytes:
    """Return the body for one document of plain JSON values, its keys in their order."""
    return orjson.dumps({"coll": collection, "doc": document})


def decode_request(body: bytes) -> tuple[str, Document]:
    """Return collection and document of an unpacked body. Raises DocumentError naming what is wrong with it."""
    if not body:
        raise DocumentError('the request is empty, expected {"coll": …, "doc": …}')
    request = _loads(body)
    if not isinstance(request, dict):
        raise DocumentError(f"the request is {_kind(request)}, expected an object with 'coll' and 'doc'")
    collection, document = request.get("coll"), request.get("doc")
    if not isinstance(collection, str) or not collection:
        raise DocumentError(f"'coll' is {_kind(collection)}, expected the name of a collection")
    if not isinstance(document, dict):
        raise DocumentError(f"'doc' is {_kind(document)}, expected an object")
    return collection, document


def _loads(body: bytes) -> Any:
    # orjson reads an integer beyond 64 bits as a float; json keeps it, and the store then refuses it by its key path.
    loads = json.loads if _LONG_NUMBER.search(body) else orjson.loads
    try:
        return loads(body)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"the request is no JSON: {error}") from error


def encode_failure(error: Exception) -> bytes:
    """Return the answer for a document that is not stored; only an unavailable store is worth a retry."""
    retryable = isinstance(error, StoreUnavailableError)
    return orjson.dumps({"success": False, "error": str(error), "retryable": retryable})


def check_answer(answer: bytes) -> None:
    """Return if the document is stored. Raises StoreUnavailableError (worth a retry) or StoreError."""
    try:
        reply: Any = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise StoreError(f"the writer's answer is no JSON: {error}") from error
    if not isinstance(reply, dict):
        raise StoreError(f"the writer's answer is {_kind(reply)}, expected an object")
    if reply.get("success") is True:
        return
    reason = str(reply.get("error") or "the writer gave no reason")
    raise StoreUnavailableError(reason) if reply.get("retryable") is True else StoreError(reason)


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    return "empty" if value == "" else f"of type '{type(value).__name__}'"
