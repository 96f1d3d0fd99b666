"""Lists of runs, read out of their records."""

import json
import logging

import orjson
import pytest

from runtime.batch.run import Artifact, CallbackRecord, Callbacks, Reason, RunRecord, RunState, Times
from runtime.batch.summaries import RunSummary, list_all, summarise
from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock
from runtime.errors import DecodeError

NOW_MS = 1_000_000
RECORD = RunRecord(
    run_id="r1_flood_0",
    id='7","id":"8',
    node="flood",
    slug='a","id":"b',
    state=RunState.FAILED,
    reason=Reason.EXIT_CODE,
    times=Times(created=10, started=20, ended=30, finished=40, expires=50),
    callbacks=Callbacks(end=CallbackRecord(status="pending", next=60)),
    artifacts=(Artifact(path="output/data.json", size=1, sha256="0" * 64),),
)
SUMMARY = RunSummary(
    run_id="r1_flood_0",
    node="flood",
    slug='a","id":"b',
    state=RunState.FAILED,
    reason=Reason.EXIT_CODE,
    end_status="pending",
    end_next=60,
    created=10,
    started=20,
    ended=30,
    expires=50,
)


def test_a_summary_is_what_the_record_says() -> None:
    assert summarise(RECORD.encode()) == SUMMARY


def test_what_a_list_does_not_show_is_not_read() -> None:
    """Its artifacts, a thousand of them at most, take longer to read than all else."""
    head, found, _ = RECORD.encode().partition(b',"id":')

    assert (found, summarise(head + found + b"no JSON")) == (b',"id":', SUMMARY)


def test_the_order_of_the_fields_does_not_matter() -> None:
    turned = dict(reversed(json.loads(RECORD.encode()).items()))

    assert summarise(orjson.dumps({"later": 1, **turned})) == SUMMARY


def test_a_run_that_never_ran_has_ended_when_it_was_finished() -> None:
    record = RECORD.changed(times=Times(created=10, finished=40), reason=None)

    summary = summarise(record.encode())

    assert (summary.ended, summary.reason) == (40, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "thinking"}, "'thinking' is not a valid RunState"),
        ({"reason": "BAD_LUCK"}, "'BAD_LUCK' is not a valid Reason"),
        ({"times": None}, "'NoneType'"),
        ({"times": {"created": "today", "started": 0, "ended": 0, "finished": 0, "expires": 0}}, "created='today'"),
        ({"node": 7}, "node=7"),
    ],
)
def test_a_record_that_lists_cannot_use_says_why(changes: dict[str, object], words: str) -> None:
    data = orjson.dumps({**json.loads(RECORD.encode()), **changes})

    with pytest.raises(DecodeError) as refused:
        summarise(data)

    assert words in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"no JSON", b"[]", b"7", b"{}", b'{"runId":'])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        summarise(data)


async def test_a_list_is_told_what_it_passes_over(caplog: pytest.LogCaptureFixture) -> None:
    bus = MemoryBroker(FakeClock()).connect()
    bucket = await bus.key_value("runs", create=True)
    for key, record in {
        "old": RECORD.changed(run_id="old", times=Times(created=1)),
        "new": RECORD.changed(run_id="new", times=Times(created=2)),
        "newer": RECORD.changed(run_id="newer", times=Times(created=2)),
        "expired": RECORD.changed(run_id="expired", times=Times(created=3, expires=NOW_MS)),
    }.items():
        await bucket.put(key, record.encode())
    await bucket.put("broken", b"{}")
    await bucket.put("gone", RECORD.encode())
    await bucket.delete("gone")

    with caplog.at_level(logging.WARNING):
        listed = await list_all(bucket, NOW_MS)

    assert [each.summary.run_id for each in listed] == ["new", "newer", "old"]
    assert listed[2].data == RECORD.changed(run_id="old", times=Times(created=1)).encode()
    (warning,) = [each.getMessage() for each in caplog.records if getattr(each, "action", "") == "run-record"]
    assert warning.startswith("key broken of the bucket of runs is passed over: the record of a run cannot be read")
