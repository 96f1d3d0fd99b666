"""The node's side of saving: ids, retries within the time, and the fixed texts."""

import asyncio
import gzip
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from runtime.clock import FakeClock
from runtime.errors import (
    BusUnavailableError,
    ContextError,
    DocumentError,
    MessageTooLargeError,
    NoRespondersError,
    StoreError,
    StoreUnavailableError,
)
from runtime.stores.documents import ANSWER_TIMEOUT_S, DocumentClient, derive_id

ID = "0123456789abcdef01234567"
# Seconds by which a test moves the time on.
STEP_S = 0.5
SUCCESS = b'{"success": true}'
BUSY = b'{"success": false, "error": "busy", "retryable": true}'

Answer = bytes | Exception


class Wire:
    """A bus that answers requests by a plan (the last answer for ever) and keeps what was sent."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, bytes, dict[str, str], float]] = []

    async def request(self, subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
        self.sent.append((subject, body, dict(headers), timeout_s))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(wire: Wire, clock: FakeClock, limit_bytes: int = 1_048_576) -> DocumentClient:
    return DocumentClient(
        wire.request, "mongo_writer", clock, id_header="Krt-Doc-Id", limit_bytes=lambda: limit_bytes
    )  # fmt: skip


async def until_done(
    task: asyncio.Task[Any], clock: FakeClock, step_s: float = STEP_S, limit_s: float = 100.0
) -> float:
    """Advance the clock until the task ends; returns how long that took, in seconds."""
    start = clock.monotonic()
    while not task.done() and clock.monotonic() - start < limit_s:
        await clock.advance(step_s)
    assert task.done(), f"still not done after {limit_s} s"
    return clock.monotonic() - start


def test_a_derived_id_is_the_same_for_every_delivery_and_differs_for_everything_else() -> None:
    ids = [
        derive_id("prod_v1_greeter", 17, "r1", "score", 0),
        derive_id("prod_v1_greeter", 17, "r2", "score", 0),
        derive_id("prod_v2_greeter", 17, "r1", "score", 0),
        derive_id("prod_v1_greeter", 18, "r1", "score", 0),
        derive_id("prod_v1_greeter", 17, "r1", "store", 0),
        derive_id("prod_v1_greeter", 17, "r1", "score", 1),
    ]

    # Pinned: another value would store every document in flight twice after an update.
    assert ids[0] == derive_id("prod_v1_greeter", 17, "r1", "score", 0) == "83bc4be784b0e8e004505efc"
    assert len(set(ids)) == 6
    assert {len(own_id) for own_id in ids} == {24}


async def test_a_document_is_sent_with_kres_body_and_its_id_in_the_header() -> None:
    wire = Wire(SUCCESS)

    saved = await client(wire, FakeClock()).save("c", {"z": 1, "a": 1.0}, document_id=ID)

    assert saved == ID
    assert wire.sent == [("mongo_writer", b'{"coll":"c","doc":{"z":1,"a":1.0}}', {"Krt-Doc-Id": ID}, ANSWER_TIMEOUT_S)]


@pytest.mark.parametrize("own_id", [7, "seven"])
async def test_an_own_id_is_returned(own_id: Any) -> None:
    saved = await client(Wire(SUCCESS), FakeClock()).save("c", {"_id": own_id}, document_id=ID)

    assert saved == own_id


async def test_a_save_without_an_id_gets_a_new_one_that_its_retries_keep() -> None:
    wire, clock = Wire(NoRespondersError("none"), SUCCESS), FakeClock()
    task = asyncio.ensure_future(client(wire, clock).save("c", {}))
    await until_done(task, clock)

    other = await client(wire, clock).save("c", {})

    ids = [headers["Krt-Doc-Id"] for _, _, headers, _ in wire.sent]
    assert ids == [task.result(), task.result(), other]
    assert task.result() != other


async def test_a_large_document_is_gzipped_and_its_bytes_repeat() -> None:
    wire, clock = Wire(SUCCESS), FakeClock()

    for _ in range(2):
        await client(wire, clock, limit_bytes=4_000).save("c", {"text": "x" * 5_000}, document_id=ID)

    first, second = (body for _, body, _, _ in wire.sent)
    assert first == second
    assert json.loads(gzip.decompress(first)) == {"coll": "c", "doc": {"text": "x" * 5_000}}


async def test_a_document_that_stays_too_large_is_refused_unsent() -> None:
    wire = Wire(SUCCESS)
    noise = "".join(derive_id("", number, "", "", 0) for number in range(500))

    with pytest.raises(MessageTooLargeError, match="compressed message exceeds maximum size allowed"):
        await client(wire, FakeClock(), limit_bytes=4_000).save("c", {"text": noise})

    assert wire.sent == []


@pytest.mark.parametrize("passing", [NoRespondersError("none"), BusUnavailableError("no answer"), BUSY], ids=repr)
async def test_what_passes_is_retried_until_it_is_stored(passing: Answer, caplog: pytest.LogCaptureFixture) -> None:
    wire, clock = Wire(passing, passing, passing, SUCCESS), FakeClock()
    caplog.set_level(logging.DEBUG, "runtime.stores.documents")

    task = asyncio.ensure_future(client(wire, clock).save("c", {"n": 1}, document_id=ID))
    await until_done(task, clock, step_s=0.05)

    assert task.result() == ID
    assert len({body for _, body, _, _ in wire.sent}) == 1
    assert len(wire.sent) == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]


async def test_time_over_raises_the_fixed_text_with_its_cause() -> None:
    wire, clock = Wire(NoRespondersError("no writer")), FakeClock()

    task = asyncio.ensure_future(client(wire, clock).save("c", {}, document_id=ID))
    took_s = await until_done(task, clock)

    assert took_s == pytest.approx(60.0, abs=STEP_S)
    with pytest.raises(StoreUnavailableError) as failure:
        task.result()
    assert str(failure.value) == "Error saving data: request timed out"
    assert isinstance(failure.value.__cause__, NoRespondersError)
    assert wire.sent[-1][3] < ANSWER_TIMEOUT_S


async def test_the_pauses_grow_so_that_a_missing_writer_is_not_flooded() -> None:
    wire, clock = Wire(NoRespondersError("no writer")), FakeClock()

    task = asyncio.ensure_future(client(wire, clock).save("c", {}, document_id=ID))
    await until_done(task, clock, step_s=0.05)

    assert isinstance(task.exception(), StoreUnavailableError)
    assert 15 <= len(wire.sent) <= 35


@pytest.mark.parametrize(("left_s", "expected_s"), [(3.0, 3.0), (0.0, 0.0), (-5.0, 0.0), (500.0, 60.0)])
async def test_a_nearer_deadline_ends_the_save(left_s: float, expected_s: float) -> None:
    wire, clock = Wire(BUSY), FakeClock()
    deadline_ms = clock.time_ns() // 1_000_000 + round(left_s * 1_000)

    task = asyncio.ensure_future(client(wire, clock).save("c", {}, document_id=ID, deadline_ms=deadline_ms))
    await asyncio.sleep(0)
    took_s = await until_done(task, clock)

    assert took_s == pytest.approx(expected_s, abs=STEP_S)
    assert str(task.exception()) == "Error saving data: request timed out"


async def test_a_refusal_is_raised_at_once_with_the_writers_reason() -> None:
    wire = Wire(b'{"success": false, "error": "taken", "retryable": false}')

    with pytest.raises(StoreError, match=r"^Unexpected error saving data: taken$") as failure:
        await client(wire, FakeClock()).save("c", {}, document_id=ID)

    assert not isinstance(failure.value, StoreUnavailableError)
    assert len(wire.sent) == 1


async def test_a_prediction_has_its_own_texts() -> None:
    with pytest.raises(StoreError, match=r"^Unexpected error saving metric: the writer gave no reason$"):
        await client(Wire(b'{"success": false}'), FakeClock()).save("c", {}, what="metric")


@pytest.mark.parametrize(
    ("collection", "document", "kind", "message"),
    [
        ("", {}, ContextError, "[ctx.db.save] invalid 'collection'='', must be a nonempty string"),
        (5, {}, ContextError, "[ctx.db.save] invalid 'collection'='5', must be a nonempty string"),
        ("c", [1], ContextError, "[ctx.db.save] invalid 'data'='<class 'list'>', must be a dict"),
        ("c", {"a": {"b": float("inf")}}, DocumentError, "'a.b' is inf, which JSON cannot hold; send None or text"),
    ],
)
async def test_wrong_arguments_are_refused_unsent(
    collection: Any, document: Any, kind: type[Exception], message: str
) -> None:
    wire = Wire(SUCCESS)

    with pytest.raises(kind) as refusal:
        await client(wire, FakeClock()).save(collection, document)

    assert str(refusal.value) == message
    assert wire.sent == []
