"""Several outputs of one request as server-sent events.

event: output           one for each answer, in their order; data: its JSON
event: end              after the last; data: {"outcome": "ok"}
event: error            in place of `end`; data: the body that a refusal has
"""

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
from google.protobuf import any_pb2
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from runtime.client import Reply
from runtime.drivers.http.admission import Slot
from runtime.drivers.http.answers import REQUEST_ID_HEADER, Refusal
from runtime.errors import PredictionError
from runtime.payload import json_form

EVENT_STREAM = "text/event-stream"


class EventResponse(StreamingResponse):
    """Sends the events, and keeps the request's slot until the last one is sent or the client is gone."""

    def __init__(self, first: Reply | None, replies: AsyncIterator[Reply], slot: Slot, request_id: str) -> None:
        """first: the answer that has been waited for; None when the workflow answers without outputs."""
        headers = {"Cache-Control": "no-store", REQUEST_ID_HEADER: request_id}
        super().__init__(_events(first, replies), headers=headers, media_type=EVENT_STREAM)
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            await super().__call__(scope, receive, send)


async def _events(first: Reply | None, replies: AsyncIterator[Reply]) -> AsyncIterator[bytes]:
    try:
        if first is not None:
            yield _event("output", first.value)
            async for reply in replies:
                yield _event("output", reply.value)
    except PredictionError as error:
        yield _event("error", Refusal.of(error).body())
        return
    yield _event("end", {"outcome": "ok"})


def _event(name: str, value: Any) -> bytes:
    # JSON has no line breaks outside of its texts, where they are escaped: one data line is enough.
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value, _plain))


def _plain(value: Any) -> Any:
    """Return what an event, which is text, has in place of bytes; called by orjson."""
    if isinstance(value, any_pb2.Any):
        return {"type": value.type_url.rpartition("/")[2], "base64": base64.b64encode(value.value).decode()}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return json_form(value)
