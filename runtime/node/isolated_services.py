"""What a handler's context works with in a worker process: services whose work the node does (`isolation_desk.py`).

The context itself is the same class as in the node. It checks arguments, makes ids and encodes here; here are
only the steps that need the node.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from runtime.bus.base import Confirm, Delivery, Reader
from runtime.clock import Clock, SystemClock
from runtime.errors import ContextError, QueryError
from runtime.log import FIELDS
from runtime.message import Message, MessageType, Payload
from runtime.node.batching_limit import TimeLimit
from runtime.node.configuration import Configuration, Scope
from runtime.node.context import Services
from runtime.node.isolated_calls import NodeCalls
from runtime.node.isolation_frames import Call, Head, readable
from runtime.node.object_store import Keys, ObjectStore, check_payload
from runtime.node.work import Outputs, Work
from runtime.spec import names
from runtime.stores.base import Document, Insert, Point, PointCounts
from runtime.stores.documents import DocumentClient
from runtime.stores.json_values import plain


def make_services(told: Head, calls: NodeCalls, loop: asyncio.AbstractEventLoop) -> Services:
    """Return the services of this process. told: what the node has told at the start."""
    clock = SystemClock()
    return Services(
        workflow=told["workflow"],
        version_id=told["version_id"],
        version=told["version"],
        node=told["node"],
        base_path=Path(told["base_path"]),
        clock=clock,
        loop=loop,
        documents=_Documents(calls),
        document_client=_document_client(calls, clock, told["limit_bytes"]),
        points=_Points(calls),
        configuration=_Configuration(calls),
        object_store=_ObjectStore(calls),
        outputs=_Outputs(told["stream"], told["node"], calls),
        logger=logging.getLogger(f"{told['version']}-{told['node']}"),
    )


class RemoteWork(Work):
    """A message as its context sees it.

    number: what the node knows it by. new_headers: those that the handler has given to its outputs, if any.
    """

    __slots__ = ("new_headers", "number")

    def __init__(self, told: Head, calls: NodeCalls, clock: Clock) -> None:
        now_s = clock.monotonic()
        delivery = Delivery(
            told["subject"], b"", None, told["sequence"], told["attempt"], told["time_ns"], 0, "", now_s
        )
        self.number: int = told["number"]
        self.new_headers: Mapping[str, str] | None = None
        super().__init__(delivery, cast(Reader, _KeepAlive(self.number, calls)), on_finished=lambda _: None)
        message = {**told["message"], "type": MessageType(told["message"]["type"])}
        self.message = Message(**message)
        self.origin, self.redrive = told["origin"], told["redrive"]
        self.path = told["path"]
        self.timeout_s = told["timeout_s"]
        self.ends_s = None if told["left_s"] is None else now_s + told["left_s"]

    def set_headers(self, headers: Mapping[str, str]) -> None:
        super().set_headers(headers)
        self.new_headers = headers


class _KeepAlive:
    """The one thing of a reader that a message needs while it is handled."""

    def __init__(self, number: int, calls: NodeCalls) -> None:
        self._number = number
        self._calls = calls

    def keep_alive(self, delivery: Delivery) -> None:
        self._calls.note(Call.PROGRESS, message=self._number)


class RemoteLimit(TimeLimit):
    """The limit of a batch's time, which the node watches over. left_s: at the start, None for none."""

    def __init__(self, left_s: float | None, calls: NodeCalls, clock: Clock) -> None:
        super().__init__(clock, left_s)
        self._calls = calls
        self._ends_s = clock.monotonic() + (left_s or 0.0)

    def restart(self) -> None:
        self._calls.note(Call.RESTART)
        self._ends_s = self._clock.monotonic() + (self._limit_s or 0.0)


class LogForwarder(logging.Handler):
    """Hands the records of this process to the log of its node."""

    def __init__(self, calls: NodeCalls) -> None:
        super().__init__()
        self._calls = calls

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: readable(str(getattr(record, name))) for name in FIELDS if hasattr(record, name)}
        try:
            text = readable(self.format(record))
            self._calls.note(Call.LOG, logger=record.name, level=record.levelno, text=text, fields=fields)
        except Exception:  # a broken log line must not fail a message
            self.handleError(record)


class _Outputs(Outputs):
    def __init__(self, stream: str, node: str, calls: NodeCalls) -> None:
        self.stream = stream
        self.node = node
        self._calls = calls

    async def emit(
        self,
        work: Work,
        payload: Payload,
        channel: str = "",
        *,
        kind: MessageType = MessageType.OK,
        last: bool = False,
        stored: Confirm | None = None,
    ) -> None:
        assert isinstance(work, RemoteWork), "made for this process"
        pieces = (payload,) if isinstance(payload, bytes) else payload
        await self._calls.call(
            Call.EMIT,
            *pieces,
            message=work.number,
            channel=channel,
            type=kind,
            last=last,
            stored=stored is not None,
            headers=work.new_headers,
        )
        if stored is not None:
            stored(None)


class _Documents:
    """See `stores.base.DocumentStore`; a handler only reads."""

    def __init__(self, calls: NodeCalls) -> None:
        self._calls = calls

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        raise ContextError("documents are saved through the writer")

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        found, _ = await self._calls.call(Call.FIND, collection=collection, query=plain(query, QueryError), limit=limit)
        return cast(list[Document], found)

    async def close(self) -> None:
        """Nothing is open here."""


class _Points:
    """See `stores.base.PointStore`; a handler only saves."""

    def __init__(self, calls: NodeCalls) -> None:
        self.counts = PointCounts()
        self._calls = calls

    def save(self, point: Point) -> None:
        self._calls.note(Call.POINT, point=asdict(point))

    async def write(self, points: Sequence[Point]) -> None:
        raise ContextError("a handler saves its measurements")

    async def query(self, measurement: str, *, limit: int = 0) -> list[Point]:
        raise ContextError("measurements are read from their store")

    async def close(self) -> None:
        """Nothing is open here."""


class _Configuration(Configuration):
    def __init__(self, calls: NodeCalls) -> None:
        super().__init__({})
        self._calls = calls

    async def get(self, key: str, scope: str = Scope.UNDEFINED) -> str:
        value, _ = await self._calls.call(Call.CONFIGURATION_GET, key=key, scope=scope)
        return cast(str, value)

    async def set(self, key: str, value: str, scope: str = Scope.NODE) -> None:
        await self._calls.call(Call.CONFIGURATION_SET, key=key, value=value, scope=scope)

    async def delete(self, key: str, scope: str = Scope.NODE) -> None:
        await self._calls.call(Call.CONFIGURATION_DELETE, key=key, scope=scope)


class _ObjectStore(ObjectStore):
    def __init__(self, calls: NodeCalls) -> None:
        super().__init__(None)
        self._calls = calls

    async def save(self, key: str, payload: bytes) -> None:
        check_payload(payload)
        await self._calls.call(Call.OBJECT_SAVE, memoryview(payload).cast("B"), key=key)

    async def save_stream(self, key: str, chunks: AsyncIterable[bytes]) -> None:
        stream, _ = await self._calls.call(Call.WRITE_OPEN, key=key)
        whole = False
        try:
            async for chunk in chunks:
                await self._calls.call(Call.WRITE_NEXT, chunk, stream=stream)
            whole = True
        finally:
            await self._calls.call(Call.WRITE_CLOSE, stream=stream, whole=whole)

    async def get(self, key: str) -> bytes:
        _, payload = await self._calls.call(Call.OBJECT_GET, key=key)
        return bytes(payload)

    async def get_stream(self, key: str) -> AsyncIterator[bytes]:
        stream, _ = await self._calls.call(Call.READ_OPEN, key=key)
        try:
            while True:
                there_is_more, chunk = await self._calls.call(Call.READ_NEXT, stream=stream)
                if not there_is_more:
                    return
                yield bytes(chunk)
        finally:
            await self._calls.call(Call.READ_CLOSE, stream=stream)

    async def delete(self, key: str) -> None:
        await self._calls.call(Call.OBJECT_DELETE, key=key)

    async def list(self, regexp: str | re.Pattern[str] = "") -> Keys:
        keys, _ = await self._calls.call(Call.OBJECT_LIST, regexp=re.compile(regexp).pattern)
        return cast(Keys, keys)


def _document_client(calls: NodeCalls, clock: Clock, limit_bytes: int) -> DocumentClient:
    async def request(subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        _, answer = await calls.call(Call.SAVE, body, headers=dict(headers), timeout_s=timeout_s)
        return bytes(answer)

    return DocumentClient(request, "", clock, id_header=names.DOCUMENT_ID_HEADER, limit_bytes=lambda: limit_bytes)
