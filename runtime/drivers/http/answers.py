"""What a client is answered: values of a workflow, and refusals with the status of their outcome."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from google.protobuf import any_pb2
from starlette.responses import Response

from runtime.drivers.http import media
from runtime.errors import PredictionError
from runtime.payload import native_of
from runtime.payload_files import File
from runtime.spec.schema_check import Fault

JSON = media.JSON
BYTES = "application/octet-stream"
PROTOBUF = "application/protobuf"
# Header with the full name of a protobuf answer, and the one with the id of the request.
TYPE_HEADER = "Krt-Type"
REQUEST_ID_HEADER = "Krt-Request-Id"

# Status of a client that has closed its connection; nobody sees it.
CLIENT_GONE = 499

# HTTP status by outcome.
STATUSES: Mapping[str, int] = {
    "ok": 200,
    "invalid": 400,
    "auth": 401,
    "unknown": 404,
    "cancelled": 409,
    "too-large": 413,
    "unsupported": 422,
    "busy": 429,
    "failed": 500,
    "bad_implementation": 500,
    "unavailable": 503,
    "timeout": 504,
}


class Refusal(Exception):
    """A request that is not answered with outputs.

    status: where it is another one than the outcome's. retry_after_s: when to try again, 0 for not saying. said: what
    else the body holds.
    """

    def __init__(
        self,
        outcome: str,
        detail: str,
        *,
        status: int = 0,
        faults: Sequence[Fault] = (),
        retry_after_s: float = 0.0,
        request_id: str = "",
        node: str = "",
        headers: Mapping[str, str] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.status = status or STATUSES.get(outcome, 500)
        self.faults = faults
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.node = node
        self.headers = headers or {}
        self.said = said or {}

    @classmethod
    def of(cls, error: PredictionError) -> "Refusal":
        """Return what a client hears of a request that ended without an OK."""
        retry_after_s = RETRY_S if error.outcome in ("busy", "unavailable") else 0.0
        return cls(
            error.outcome,
            error.detail,
            retry_after_s=retry_after_s,
            request_id=error.request_id,
            node=error.node,
        )

    def body(self) -> dict[str, Any]:
        """Return the JSON that tells of it; a field without a value is left out."""
        faults = [{"field": fault.field, "problem": fault.problem} for fault in self.faults]
        said = {"faults": faults, "request_id": self.request_id, "node": self.node, **self.said}
        return {"outcome": self.outcome, "detail": self.detail, **{key: value for key, value in said.items() if value}}

    def response(self) -> Response:
        headers = dict(self.headers)
        if self.retry_after_s:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.request_id:
            headers[REQUEST_ID_HEADER] = self.request_id
        return json_response(self.body(), self.status, headers)


# Seconds after which a client may try again what the stream did not take.
RETRY_S = 2.0


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, JSON)


def value_response(value: Any, request_id: str = "", accept: str = "") -> Response:
    """Return the answer with one output: JSON, bytes and files as they are, or the bytes of a protobuf message.

    accept: the client's header, which chooses the form of arrays and tables.
    """
    headers = {REQUEST_ID_HEADER: request_id} if request_id else {}
    if isinstance(value, bytes):
        return Response(value, 200, headers, BYTES)
    if isinstance(value, any_pb2.Any):
        headers[TYPE_HEADER] = value.type_url.rpartition("/")[2]
        return Response(value.value, 200, headers, PROTOBUF)
    if native_of(value) is not None:
        body, headers["Content-Type"] = media.written(value, accept)
        # What a workflow answers is never a page of the driver's own site, whatever it says that it is.
        headers["X-Content-Type-Options"] = "nosniff"
        if isinstance(value, File):
            name = f"; filename*=UTF-8''{quote(value.name, safe='')}" if value.name else ""
            headers["Content-Disposition"] = f"attachment{name}"
        return Response(body, 200, headers)
    return json_response(value, 200, headers)
