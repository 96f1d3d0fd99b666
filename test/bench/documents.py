"""Documents per second through the writer, against KRE's way on the same NATS and the same store.

Handlers save from this process, with the client that `ctx.db.save` has; every writer is a process. A document counts
when its request is answered, and all of them are looked for in the store afterwards.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pymongo import MongoClient

from runtime.clock import SystemClock
from runtime.spec import names
from runtime.stores.documents import DocumentClient, derive_id
from runtime.stores.open import open_documents
from runtime.stores.request import encode_request
from test.bench import payloads
from test.bench.processes import BenchError, Child, start_one_by_one_writer, start_writer
from test.bench.report import Row, Target
from test.bench.workbench import Workbench
from test.support.mongo import serve_mongo

SIZE_BYTES = 200
# Handlers that save at once: four replicas with the 16 slots that a node has.
HANDLERS = 64
# Documents saved before the clock starts: connections are made, and the collection too.
WARM_UP = 20
ANSWER_TIMEOUT_S = 30.0
DOCUMENTS_TARGET = Target(bound=5)

# Stores one document; its number makes its id.
Save = Callable[[int], Awaitable[None]]
StartWriter = Callable[[str, str, str, Path], Child]


@dataclass(frozen=True, slots=True)
class Contender:
    """How documents are saved: which writer, by how many handlers at once, and whether in KRE's way."""

    name: str
    start: StartWriter
    handlers: int
    is_ours: bool


WRITER = Contender("writer", start_writer, HANDLERS, is_ours=True)
KRE = Contender("kre", start_one_by_one_writer, 1, is_ours=False)
ONE_BY_ONE = Contender("one by one", start_one_by_one_writer, HANDLERS, is_ours=False)


async def measure(bench: Workbench, *, seconds: float, rounds: int) -> list[Row]:
    """Return documents per second on the MongoDB server of the tests, and of our writer on SQLite."""
    contenders = (WRITER, KRE, ONE_BY_ONE)
    with serve_mongo() as server:
        runs: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _, contender in itertools.product(range(rounds), contenders):
            runs[contender.name].append(await _run_once(bench, contender, server.uri, seconds))
        title = f"documents, {server.name}"
    sqlite = f"sqlite:///{bench.folder / 'documents.sqlite'}"
    embedded = [await _run_once(bench, WRITER, sqlite, seconds) for _ in range(rounds)]
    return [*_compared(title, runs), _row("documents, sqlite", WRITER.name, embedded)]


def _compared(title: str, runs: Mapping[str, list[float]]) -> list[Row]:
    ours = runs[WRITER.name]
    peers = {name: rates for name, rates in runs.items() if name != WRITER.name}
    targets = {KRE.name: DOCUMENTS_TARGET}
    return [
        *(_row(title, name, rates) for name, rates in peers.items()),
        *(_row(title, WRITER.name, ours, name, rates, targets.get(name)) for name, rates in peers.items()),
    ]


def _row(
    title: str,
    who: str,
    rates: list[float],
    baseline: str = "",
    against: list[float] | None = None,
    target: Target | None = None,
) -> Row:
    return Row(
        name=title,
        who=who,
        value=median(rates),
        unit="docs/s",
        low=min(rates),
        high=max(rates),
        ratio=median(rates) / median(against) if against else None,
        baseline=baseline,
        target=target,
    )


async def _run_once(bench: Workbench, contender: Contender, uri: str, seconds: float) -> float:
    """Let the handlers save for so long; return documents per second. Raises BenchError when one is missing."""
    subject = names.writer_subject(f"bench{bench.next_run()}")
    child = contender.start(bench.server.url, subject, uri, bench.folder)
    try:
        await child.wait_ready()
        save = _our_save(bench, subject) if contender.is_ours else _kre_save(bench, subject)
        for number in range(WARM_UP):
            await save(number)
        numbers = itertools.count(WARM_UP)
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(contender.handlers):
                group.create_task(_save_until(started_s + seconds, save, numbers))
        took_s = time.perf_counter() - started_s
        child.check_alive()
    finally:
        await child.stop()
    saved = next(numbers)
    if (stored := await _count(uri, subject)) != saved:
        raise BenchError(f"{contender.name}: {saved} documents were answered, {stored} are stored")
    return (saved - WARM_UP) / took_s


async def _save_until(end_s: float, save: Save, numbers: "itertools.count[int]") -> None:
    while time.perf_counter() < end_s:
        await save(next(numbers))


def _our_save(bench: Workbench, subject: str) -> Save:
    """Save as `ctx.db.save` does; the collection is called like the subject."""

    async def request(subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        return (await bench.bus.request(subject, body, headers=headers, timeout_s=timeout_s)).data

    client = DocumentClient(
        request,
        subject,
        SystemClock(),
        id_header=names.DOCUMENT_ID_HEADER,
        limit_bytes=lambda: bench.bus.max_payload_bytes,
    )
    document = payloads.json_of_size(SIZE_BYTES)

    async def save(number: int) -> None:
        await client.save(subject, document, document_id=derive_id(subject, number, "", "bench", 0))

    return save


def _kre_save(bench: Workbench, subject: str) -> Save:
    """Save as KRE's runner does: one request, awaited."""
    document = payloads.json_of_size(SIZE_BYTES)

    async def save(number: int) -> None:
        await bench.client.request(subject, encode_request(subject, document), timeout=ANSWER_TIMEOUT_S)

    return save


async def _count(uri: str, collection: str) -> int:
    if uri.startswith("sqlite:"):
        store = open_documents(uri)
        try:
            return len(await store.find(collection, {}))
        finally:
            await store.close()
    with MongoClient[dict[str, object]](uri) as client:
        return await asyncio.to_thread(client.get_database("data").get_collection(collection).count_documents, {})
