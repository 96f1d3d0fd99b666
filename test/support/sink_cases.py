"""Every built-in sink with a way to read back what it wrote: what the conformance suite of sinks runs on."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyarrow import parquet  # type: ignore[import-untyped]  # it ships no types

from runtime.bus.base import Bus, StreamConfig
from runtime.deploy.writer_service import WriterDesk
from runtime.drivers.flow import Item, Sink
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.sinks.dummy import DummySink
from runtime.drivers.sinks.file import FileSink
from runtime.drivers.sinks.http import HttpSink
from runtime.drivers.sinks.influx import InfluxSink
from runtime.drivers.sinks.mongo import MongoSink
from runtime.drivers.sinks.nats_subject import NatsSink
from runtime.drivers.sinks.parquet import ParquetSink
from runtime.spec import names
from runtime.stores.open import open_documents, open_points
from runtime.stores.writer import Writer
from test.support.influx_stub import InfluxStub

# Stream and subject of somebody else.
RESULTS, SUBJECT = "results", "results.new"

ReadBack = Callable[[], Awaitable[list[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCase:
    """How a sink is made, for each of its lives, and what it has written so far, in order.

    is_idempotent: an output that comes again changes nothing.
    """

    make: Callable[[], Sink]
    read_back: ReadBack
    is_idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a case may use. stack: ends with the test."""

    folder: Path
    bus: Bus
    stack: AsyncExitStack


class ListSink(Sink):
    """A user's own sink, with plain methods that all have to run in one thread."""

    def __init__(self, written: list[Any]) -> None:
        super().__init__()
        self._written = written
        self._thread = 0

    def open(self) -> None:
        self._thread = threading.get_ident()

    def write(self, outputs: Any, item: Item) -> None:
        assert threading.get_ident() == self._thread
        self._written.append(outputs)


async def own(place: Surroundings) -> SinkCase:
    written: list[Any] = []
    return SinkCase(make=lambda: ListSink(written), read_back=lambda: _now(written))


async def collect(place: Surroundings) -> SinkCase:
    sink = CollectSink()
    return SinkCase(make=lambda: sink, read_back=lambda: _now(sink.outputs))


async def dummy(place: Surroundings) -> SinkCase:
    drained: list[Any] = []
    return SinkCase(make=lambda: DummySink(drain=drained.append), read_back=lambda: _now(drained))


async def file(place: Surroundings) -> SinkCase:
    path = place.folder / "new" / "out.jsonl"
    return SinkCase(make=lambda: FileSink(path=path), read_back=lambda: _now(_json_lines(path)))


async def rotated_files(place: Surroundings) -> SinkCase:
    path = place.folder / "out.jsonl"

    async def read_back() -> list[Any]:
        newest_last = [*sorted(place.folder.glob("out.jsonl.*")), path]
        return [value for each in newest_last for value in _json_lines(each)]

    return SinkCase(make=lambda: FileSink(path=path, rotate_bytes=20), read_back=read_back)


async def parquet_files(place: Surroundings) -> SinkCase:
    async def read_back() -> list[Any]:
        files = sorted(place.folder.glob("out-*.parquet"))
        return [row for each in files for row in parquet.read_table(each).to_pylist()]

    return SinkCase(make=lambda: ParquetSink(path=place.folder / "out.parquet", rows=2), read_back=read_back)


async def http(place: Surroundings) -> SinkCase:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    place.stack.callback(server.server_close)
    place.stack.callback(thread.join)
    place.stack.callback(server.shutdown)
    url = f"http://127.0.0.1:{server.server_port}/"
    return SinkCase(make=lambda: HttpSink(url=url), read_back=lambda: _now(received))


async def nats_subject(place: Surroundings) -> SinkCase:
    received: list[Any] = []
    await place.bus.subscribe(SUBJECT, lambda message: received.append(json.loads(message.data)))
    return SinkCase(make=lambda: NatsSink(subject=SUBJECT), read_back=lambda: _now(received))


async def nats_stream(place: Surroundings) -> SinkCase:
    await place.bus.ensure_stream(StreamConfig(name=RESULTS, subjects=(SUBJECT,), storage="memory"))

    async def read_back() -> list[Any]:
        scan = await place.bus.scan(RESULTS)
        return [json.loads(stored.data) for stored in await scan.read()]

    make = lambda: NatsSink(subject=SUBJECT, stream=RESULTS)  # noqa: E731
    return SinkCase(make=make, read_back=read_back, is_idempotent=True)


async def mongo_by_writer(place: Surroundings) -> SinkCase:
    uri = f"sqlite:///{place.folder}/documents.db"
    desk = await WriterDesk.open(Writer(open_documents(uri)), place.bus, names.WRITER_SUBJECT)
    place.stack.push_async_callback(desk.close, 1.0)
    return SinkCase(make=lambda: MongoSink(collection="seen"), read_back=lambda: _documents(uri), is_idempotent=True)


async def mongo(place: Surroundings) -> SinkCase:
    uri = f"sqlite:///{place.folder}/documents.db"
    return SinkCase(
        make=lambda: MongoSink(collection="seen", uri=uri), read_back=lambda: _documents(uri), is_idempotent=True
    )


async def influx(place: Surroundings) -> SinkCase:
    stub = InfluxStub()
    place.stack.callback(stub.close)

    async def read_back() -> list[Any]:
        return [{"n": int(line.split(" ")[1].removeprefix("n=").removesuffix("i"))} for line in stub.stored]

    return SinkCase(make=lambda: InfluxSink(uri=stub.url, measurement="seen"), read_back=read_back)


async def points(place: Surroundings) -> SinkCase:
    uri = f"sqlite:///{place.folder}/points.db"

    async def read_back() -> list[Any]:
        store = open_points(uri)
        found = await store.query("seen")
        await store.close()
        return [dict(point.fields) for point in found]

    return SinkCase(make=lambda: InfluxSink(uri=uri, measurement="seen"), read_back=read_back)


async def _now(values: list[Any]) -> list[Any]:
    await asyncio.sleep(0)
    return list(values)


async def _documents(uri: str) -> list[Any]:
    store = open_documents(uri)
    found = await store.find("seen", {})
    await store.close()
    return [{key: value for key, value in document.items() if key != "_id"} for document in found]


def _json_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


CASES: dict[str, Callable[[Surroundings], Awaitable[SinkCase]]] = {
    "own": own,
    "collect": collect,
    "dummy": dummy,
    "file": file,
    "file-rotated": rotated_files,
    "parquet": parquet_files,
    "http": http,
    "nats": nats_subject,
    "nats-stream": nats_stream,
    "mongo-writer": mongo_by_writer,
    "mongo": mongo,
    "influx": influx,
    "influx-sqlite": points,
}
