"""One handler without a workflow: a context that works as in a runner and keeps what the handler does with it.

    ctx = RecordingContext(headers={"kind": "scan"})
    await call(init, ctx)
    assert await call(handler, ctx, {"name": "Ada"}) == {"greeting": "Hello, Ada!"}
    assert ctx.sent == [Sent("hello", channel="greetings")]

A plain test writes `asyncio.run(call(handler, ctx, data))`.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.bus.base import Confirm, ConsumerConfig, Delivery
from runtime.bus.memory import MemoryBroker
from runtime.bus.memory_kv import MemoryBucket, MemoryKeyValue
from runtime.bus.memory_objects import MemoryObjects, MemoryObjectStore
from runtime.bus.memory_reader import MemoryReader
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import FakeClock
from runtime.message import Message, MessageType, Payload
from runtime.node.batching_context import BatchContext
from runtime.node.batching_limit import TimeLimit
from runtime.node.configuration import Configuration, Scope
from runtime.node.context import Context, Services
from runtime.node.object_store import ObjectStore
from runtime.node.work import Outputs, Work
from runtime.payload import decode_value
from runtime.proto.packed import whole
from runtime.spec import names
from runtime.stores.base import Document, Insert, Point
from runtime.stores.documents import DocumentClient
from runtime.stores.prediction import COLLECTION
from runtime.stores.request import SUCCESS, decode_request, encode_failure
from runtime.testing.stores import Collections, MemoryDocuments, MemoryPoints
from runtime.testing.values import unpacked

# Names of the workflow that is not there.
WORKFLOW, VERSION = "workflow", "dev"
STREAM = names.stream("test", VERSION, WORKFLOW)
# Largest document: nothing that a test saves is ever compressed.
LIMIT_BYTES = 1024**3

# Before `call` there is no loop that a plain handler could hand an awaitable to.
_NO_LOOP: Any = None


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that a handler sent through its context: the value as its receiver reads it."""

    value: Any
    channel: str = ""
    type: MessageType = MessageType.OK


@dataclass(frozen=True, slots=True)
class _Record:
    """What a context keeps, filled by the parts that a runner would connect to NATS and to the stores."""

    objects: MemoryObjects
    sent: list[Sent] = field(default_factory=list)
    collections: Collections = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _GivenState:
    """The state that a test has given, and looks at afterwards."""

    value: Any


class RecordingContext(Context):
    """The context of one message, for `call`.

    path: the workflow's folder, for `ctx.path`. values: what `ctx.get` finds, as if `init` had set it. config: values
    of the node's configuration scope. documents: by collection, what is stored already. objects: by key, what its
    object store holds already. error: the text of an ERROR that the handler is called with. state: what `ctx.state` is,
    None for a node without one.

    | member | keeps |
    |---|---|
    | `sent` | what went through `send_output`, `send_any` and the early replies and exits, as `Sent` |
    | `saved` | every document by collection: those given first, then those of `ctx.db.save` |
    | `predictions` | the documents of `ctx.prediction.save` |
    | `points` | the points of `ctx.measurement.save` |
    | `objects` | the object store by key: what was given, then what the handler has made of it |
    """

    _record: _Record

    def __init__(
        self,
        *,
        node: str = "node",
        path: Path | str = ".",
        request_id: str = "request-1",
        from_node: str = names.ENTRYPOINT,
        headers: Mapping[str, str] | None = None,
        attempt: int = 1,
        error: str = "",
        state: Any = None,
        values: Mapping[str, Any] | None = None,
        config: Mapping[str, str] | None = None,
        documents: Mapping[str, Sequence[Document]] | None = None,
        objects: Mapping[str, bytes] | None = None,
    ) -> None:
        clock = FakeClock()
        record = _Record(_objects(objects or {}, clock))
        store = MemoryDocuments(record.collections)
        for collection, given in (documents or {}).items():
            for document in given:
                store.insert(Insert(collection=collection, document=document))
        services = Services(
            workflow=WORKFLOW,
            version_id=VERSION,
            version=VERSION,
            node=node,
            base_path=Path(path).absolute(),
            clock=clock,
            loop=_NO_LOOP,
            documents=store,
            document_client=_document_client(store, clock),
            points=MemoryPoints(record.points),
            configuration=_configuration(config or {}),
            object_store=ObjectStore(MemoryObjectStore(lambda: record.objects)),
            outputs=_RecordingOutputs(node, clock, record.sent),
            logger=logging.getLogger(f"{VERSION}-{node}"),
            values=dict(values or {}),
        )
        message = Message(
            request_id=request_id,
            from_node=from_node,
            headers=dict(headers or {}),
            error=error,
            type=MessageType.ERROR if error else MessageType.OK,
        )
        work = _work(message, attempt, clock)
        work.state = None if state is None else _GivenState(state)
        super().__init__(services, work)
        vars(self)["_record"] = record

    @property
    def sent(self) -> list[Sent]:
        return self._record.sent

    @property
    def saved(self) -> dict[str, list[Document]]:
        collections = self._record.collections.items()
        return {name: list(documents.values()) for name, documents in collections if name != COLLECTION}

    @property
    def predictions(self) -> list[Document]:
        return list(self._record.collections.get(COLLECTION, {}).values())

    @property
    def points(self) -> list[Point]:
        return self._record.points

    @property
    def objects(self) -> dict[str, bytes]:
        return self._record.objects.contents()


class RecordingBatch(BatchContext):
    """The context of a call with several messages, for `call`. `items`: a `RecordingContext` for each."""

    def __init__(self, items: Sequence[RecordingContext]) -> None:
        services = items[0]._services
        super().__init__(services, items, TimeLimit(services.clock, None))


async def call(function: Callable[..., Any], ctx: RecordingContext | RecordingBatch, *data: Any) -> Any:
    """Call a handler with its data as it is, or `init` and `teardown` without data, and return what it returns.

    A plain `def` runs in a thread, as in a runner; a generator's items are returned as a list. Raises what it raises.
    """
    for each in (ctx, *ctx.items) if isinstance(ctx, RecordingBatch) else (ctx,):
        object.__setattr__(each, "_services", replace(each._services, loop=asyncio.get_running_loop()))
    context = ctx if data else Context(ctx._services, None)
    if inspect.isasyncgenfunction(function):
        return [item async for item in function(context, *data)]
    if inspect.isgeneratorfunction(function):
        return await asyncio.to_thread(lambda: list(function(context, *data)))
    if inspect.iscoroutinefunction(function):
        return await function(context, *data)
    return await asyncio.to_thread(function, context, *data)


class _RecordingOutputs(Outputs):
    """Keeps outputs in place of publishing them; channels and values are checked as in a runner."""

    def __init__(self, node: str, clock: FakeClock, sent: list[Sent]) -> None:
        bus = MemoryBroker(clock).connect()
        super().__init__(
            bus,
            bus.publisher(STREAM),
            stream=STREAM,
            node=node,
            subject=names.node_subject(STREAM, node),
            exit_channel=None,
            channels=None,
        )
        self._sent = sent

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
        self.subject(channel)
        self._sent.append(Sent(unpacked(decode_value(whole(payload))), channel, kind))
        if stored is not None:
            stored(None)


def _document_client(store: MemoryDocuments, clock: FakeClock) -> DocumentClient:
    async def request(subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        collection, document = decode_request(body)
        document_id = headers[names.DOCUMENT_ID_HEADER]
        failure = store.insert(Insert(collection=collection, document=document, document_id=document_id))
        return SUCCESS if failure is None else encode_failure(failure)

    return DocumentClient(
        request,
        names.WRITER_SUBJECT,
        clock,
        id_header=names.DOCUMENT_ID_HEADER,
        limit_bytes=lambda: LIMIT_BYTES,
    )


def _configuration(values: Mapping[str, str]) -> Configuration:
    bucket = MemoryBucket(FakeClock())
    for key, value in values.items():
        bucket.write(key, value.encode())
    return Configuration({Scope.NODE: MemoryKeyValue(bucket, lambda: None)})


def _objects(given: Mapping[str, bytes], clock: FakeClock) -> MemoryObjects:
    objects = MemoryObjects(ObjectStoreConfig(name="objects"), clock)
    for key, payload in given.items():
        objects.store(key, payload)
    return objects


def _work(message: Message, attempt: int, clock: FakeClock) -> Work:
    source = names.node_subject(STREAM, message.from_node)
    delivery = Delivery(source, b"", None, 1, attempt, clock.time_ns(), 0, "", clock.monotonic())
    consumer = ConsumerConfig(stream=STREAM, durable="", filter_subjects=(source,))
    work = Work(delivery, MemoryReader(consumer, lambda: None, clock), on_finished=lambda _: None)
    work.message = message
    return work
