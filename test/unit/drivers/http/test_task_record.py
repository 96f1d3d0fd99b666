"""Records of tasks: what is written is read back, and what cannot be read says so."""

import os

import pytest

from runtime.drivers.http.task_record import TaskRecord
from runtime.errors import DecodeError, MessageTooLargeError

PENDING = TaskRecord(
    id="a" * 32,
    created_ms=1_700_000_000_000,
    deadline_ms=1_700_000_030_000,
    state_id="cam-1",
    headers={"traceparent": "x"},
    payload=b"\x0a\n\x00 with a line break",
)
LIMIT_BYTES = 65_536


def test_a_record_is_read_back_as_it_was_written() -> None:
    assert TaskRecord.decode(PENDING.encode(LIMIT_BYTES)) == PENDING


def test_a_large_record_is_packed_and_one_that_stays_too_large_is_refused() -> None:
    large = PENDING.ended(outcome="ok", payload=b"x" * 1_000_000)

    packed = large.encode(LIMIT_BYTES)

    assert len(packed) < LIMIT_BYTES
    assert TaskRecord.decode(packed) == large
    with pytest.raises(MessageTooLargeError):
        PENDING.ended(outcome="ok", payload=os.urandom(1_000_000)).encode(LIMIT_BYTES)


def test_the_end_of_a_task_takes_the_place_of_its_inputs() -> None:
    ended = PENDING.ended(outcome="failed", detail="no such city", node="echo").kept(1_700_000_090_000)

    assert (PENDING.is_pending, ended.is_pending) == (True, False)
    assert (ended.payload, ended.state_id, ended.headers) == (b"", "", {})
    assert [ended.is_expired(now_ms) for now_ms in (1_700_000_089_999, 1_700_000_090_000)] == [False, True]


def test_a_field_of_a_later_version_is_left_out() -> None:
    later = PENDING.encode(LIMIT_BYTES).replace(b'{"id"', b'{"colour":"red","id"', 1)

    assert TaskRecord.decode(later) == PENDING


@pytest.mark.parametrize("data", [b"", b"[]\n", b"{}\n", b"\x1f\x8bbroken", b"{"])
def test_what_is_no_record_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        TaskRecord.decode(data)
