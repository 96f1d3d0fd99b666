"""The writer: batches, answers after the store's answer, limits, failures and the end."""

import asyncio
import gzip
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from runtime.clock import settle
from runtime.errors import DuplicateDocumentError, StoreError, StoreUnavailableError
from runtime.stores.base import Document, Insert
from runtime.stores.request import encode_request
from runtime.stores.writer import BATCH_DOCUMENTS, Writer

ID = "0123456789abcdef01234567"
# Seconds that an answer may take in a thread before it counts as missing.
PATIENCE_S = 5.0


class RecordingStore:
    """Keeps what it gets, in batches; can be held, and told what to answer."""

    def __init__(self) -> None:
        self.batches: list[list[Insert]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.outcomes: dict[Any, Exception] = {}

    async def insert_many(self, inserts: Sequence[Insert]) -> list[Exception | None]:
        self.batches.append(list(inserts))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [self.outcomes.get(insert.document.get("n")) for insert in inserts]

    async def find(self, collection: str, query: Mapping[str, Any], *, limit: int = 0) -> list[Document]:
        raise AssertionError("the writer never searches")

    async def close(self) -> None:
        raise AssertionError("the writer does not own the store")


class Bench:
    """A running writer over a recording store."""

    def __init__(self, **limits: int) -> None:
        self.store = RecordingStore()
        self.writer = Writer(self.store, **limits)
        self.run = asyncio.ensure_future(self.writer.run())

    def send(self, n: int = 0, document_id: str = "") -> asyncio.Task[bytes]:
        return self.send_body(encode_request("c", {"n": n}), document_id)

    def send_body(self, body: bytes, document_id: str = "") -> asyncio.Task[bytes]:
        return asyncio.ensure_future(self.writer.handle(body, document_id))

    @property
    def stored(self) -> list[Any]:
        return [insert.document["n"] for batch in self.store.batches for insert in batch]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.store.open.set()
    await bench.writer.close()
    await asyncio.wait_for(bench.run, PATIENCE_S)


def answered(task: asyncio.Task[bytes]) -> dict[str, Any]:
    answer = json.loads(task.result())
    assert isinstance(answer, dict)
    return answer


async def test_requests_that_come_together_become_one_batch(bench: Bench) -> None:
    tasks = [bench.send(n) for n in range(3)]
    await settle()

    assert [len(batch) for batch in bench.store.batches] == [3]
    assert [answered(task) for task in tasks] == [{"success": True}] * 3


async def test_a_batch_is_limited(bench: Bench) -> None:
    tasks = [bench.send(n) for n in range(BATCH_DOCUMENTS + 1)]
    await settle()

    assert [len(batch) for batch in bench.store.batches] == [BATCH_DOCUMENTS, 1]
    assert bench.stored == list(range(BATCH_DOCUMENTS + 1))
    assert all(answered(task)["success"] for task in tasks)


async def test_no_answer_comes_before_the_stores_answer(bench: Bench) -> None:
    bench.store.open.clear()
    task = bench.send()
    await settle()
    before = task.done()

    bench.store.open.set()
    await settle()

    assert before is False
    assert answered(task) == {"success": True}


async def test_requests_that_come_during_a_batch_gather_for_the_next_one(bench: Bench) -> None:
    bench.store.open.clear()
    tasks = []
    for n in range(3):
        tasks.append(bench.send(n))
        await settle()

    bench.store.open.set()
    await settle()

    assert [[insert.document["n"] for insert in batch] for batch in bench.store.batches] == [[0], [1, 2]]
    assert [answered(task) for task in tasks] == [{"success": True}] * 3


async def test_the_id_of_the_header_goes_to_the_store(bench: Bench) -> None:
    bench.send(1, ID)
    bench.send(2)

    await settle()

    assert [insert.document_id for insert in bench.store.batches[0]] == [ID, ""]


async def test_a_gzipped_request_is_unpacked(bench: Bench) -> None:
    task = bench.send_body(gzip.compress(encode_request("c", {"n": 1}), mtime=0), ID)
    answer = json.loads(await asyncio.wait_for(task, PATIENCE_S))

    assert bench.store.batches[0] == [Insert(collection="c", document={"n": 1}, document_id=ID)]
    assert answer == {"success": True}


@pytest.mark.parametrize(
    ("body", "document_id", "message"),
    [
        (b"", "", "the request is empty"),
        (b"nonsense", "", "the request is no JSON"),
        (b'{"coll": "c", "doc": 5}', "", "'doc' is of type 'int'"),
        (b"\x1f\x8bbroken", "", "broken gzip"),
        (gzip.compress(b'{"coll": "c"}', mtime=0)[:-9], "", "gzip ends in the middle"),
        (gzip.compress(b" " * 2_000, mtime=0), "", "unpacks to more than 1,000 bytes"),
        (b'{"coll": "c", "doc": {}}', "ABCDEF", "the document id 'ABCDEF' is no id, expected 24 hex digits"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_request_that_cannot_be_read_is_answered_and_the_writer_lives_on(
    body: bytes, document_id: str, message: str
) -> None:
    bench = Bench(max_inflated_bytes=1_000)

    answer = json.loads(await bench.writer.handle(body, document_id))
    good = bench.send(1)
    await settle()

    assert (answer["success"], answer["retryable"]) == (False, False)
    assert message in answer["error"]
    assert bench.stored == [1]
    assert answered(good) == {"success": True}
    await bench.writer.close()
    await bench.run


async def test_a_failing_document_fails_no_other(bench: Bench) -> None:
    bench.store.outcomes[2] = DuplicateDocumentError("taken")
    tasks = [bench.send(n) for n in (1, 2, 3)]

    await settle()

    assert [answered(task)["success"] for task in tasks] == [True, False, True]
    assert answered(tasks[1]) == {"success": False, "error": "taken", "retryable": False}


async def test_an_unavailable_store_is_worth_a_retry_and_is_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.failure = StoreUnavailableError("down")
    tasks = []
    for n in range(3):
        tasks.append(bench.send(n))
        await settle()
    bench.store.failure = None
    again = bench.send(9)
    await settle()

    assert [answered(task) for task in tasks] == [{"success": False, "error": "down", "retryable": True}] * 3
    assert answered(again) == {"success": True}
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "documents cannot be stored: down")
    ]


async def test_a_broken_store_is_not_worth_a_retry(bench: Bench) -> None:
    bench.store.failure = StoreError("damaged")
    task = bench.send()

    await settle()

    assert answered(task) == {"success": False, "error": "damaged", "retryable": False}


async def test_requests_beyond_the_count_are_told_to_try_again() -> None:
    bench = Bench(max_requests=2)
    tasks = [bench.send(n) for n in range(3)]
    await settle()
    later = bench.send(3)
    await settle()

    assert [answered(task)["success"] for task in tasks] == [True, True, False]
    assert answered(tasks[2])["retryable"] is True
    assert answered(tasks[2])["error"].startswith("the writer has its hands full: 2 requests with ")
    assert answered(later) == {"success": True}
    await bench.writer.close()
    await bench.run


async def test_requests_beyond_the_size_are_told_to_try_again() -> None:
    bench = Bench(max_request_bytes=100)
    first = bench.send_body(encode_request("c", {"n": "x" * 60}))
    second = bench.send_body(encode_request("c", {"n": "x" * 60}))
    packed = bench.send_body(b"\x1f\x8b" + b"x" * 99)
    await settle()

    assert answered(first) == {"success": True}
    assert answered(second)["retryable"] is True
    assert answered(packed)["retryable"] is True
    await bench.writer.close()
    await bench.run


async def test_an_unpacked_request_counts_with_its_full_size() -> None:
    bench = Bench(max_request_bytes=5_000)

    answer = json.loads(await bench.writer.handle(gzip.compress(encode_request("c", {"n": "x" * 6_000}), mtime=0)))

    assert (answer["success"], answer["retryable"]) == (False, True)
    await bench.writer.close()
    await bench.run


async def test_a_cancelled_caller_changes_nothing_for_the_others(bench: Bench) -> None:
    bench.store.open.clear()
    tasks = [bench.send(n) for n in range(3)]
    await settle()
    tasks += [bench.send(n) for n in range(3, 6)]
    await settle()

    tasks[1].cancel()  # its batch is in the store
    tasks[4].cancel()  # still queued
    bench.store.open.set()
    await settle()

    assert [task.cancelled() for task in tasks] == [False, True, False, False, True, False]
    assert all(answered(task)["success"] for task in tasks if not task.cancelled())
    assert bench.stored == list(range(6))


async def test_closing_stores_and_answers_what_is_queued_and_refuses_the_rest() -> None:
    bench = Bench()
    bench.store.open.clear()
    tasks = []
    for n in range(3):
        tasks.append(bench.send(n))
        await settle()

    closing = asyncio.ensure_future(bench.writer.close())
    await settle()
    late = json.loads(await bench.writer.handle(encode_request("c", {"n": 4})))
    bench.store.open.set()
    await asyncio.wait_for(asyncio.gather(closing, bench.run), PATIENCE_S)

    assert [answered(task) for task in tasks] == [{"success": True}] * 3
    assert bench.stored == [0, 1, 2]
    assert late == {"success": False, "error": "the writer is stopping", "retryable": True}


async def test_a_cancelled_run_answers_the_batch_in_hand() -> None:
    bench = Bench()
    bench.store.open.clear()
    task = bench.send()
    await settle()

    bench.run.cancel()
    await asyncio.gather(bench.run, return_exceptions=True)

    assert json.loads(await task)["retryable"] is True


async def test_thousands_of_concurrent_requests_are_all_stored_once(bench: Bench) -> None:
    tasks = [bench.send(n) for n in range(5_000)]
    await settle()
    answers = await asyncio.gather(*tasks)

    assert set(answers) == {b'{"success":true}'}
    assert bench.stored == list(range(5_000))


async def test_a_request_that_unpacks_to_gigabytes_never_fills_the_memory() -> None:
    limit_bytes = 1024 * 1024
    bench = Bench(max_inflated_bytes=limit_bytes)
    bomb = gzip.compress(bytes(100 * limit_bytes), mtime=0)
    tracemalloc.start()

    try:
        answer = json.loads(await bench.writer.handle(bomb))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (answer["success"], answer["retryable"]) == (False, False)
    assert peak_bytes < 4 * limit_bytes
    await bench.writer.close()
    await bench.run
