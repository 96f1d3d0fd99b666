"""The table of ends: what becomes of a delivery, by what happened to it."""

import asyncio

import pytest

from runtime.errors import (
    BusClosedError,
    BusError,
    BusUnavailableError,
    DecodeError,
    EncodeError,
    HandlerTimeoutError,
    JoinTimeoutError,
    MessageTooLargeError,
    Reject,
    Retry,
    RevisionError,
    StreamFullError,
    WrongStreamError,
)
from runtime.node.settle import MAX_TEXT, Decision, backoff_s, decide, describe, names_of
from runtime.spec.node import RetryPolicy

POLICY = RetryPolicy(attempts=3, first_s=1.0, factor=2.0, max_s=60.0, jitter=0.0, never=("LookupError",))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Reject("no"), Decision("dead", counts=True, reason="rejected")),
        (DecodeError("x", reason="gzip"), Decision("dead", reason="gzip")),
        (EncodeError("x"), Decision("dead", counts=True, reason="encode")),
        (MessageTooLargeError("x"), Decision("dead", counts=True, reason="too-large")),
        (StreamFullError("x"), Decision("retry", delay_s=1.0)),
        (BusUnavailableError("x"), Decision("retry", delay_s=1.0)),
        (BusClosedError("x"), Decision("retry", delay_s=1.0)),
        (RevisionError("x"), Decision("retry", delay_s=1.0)),
        (JoinTimeoutError("x"), Decision("dead", reason="join-timeout")),
        (WrongStreamError("x"), Decision("dead", reason="refused")),
        (BusError("x"), Decision("dead", reason="refused")),
        (KeyError("x"), Decision("dead", counts=True, reason="never")),
        (ValueError("x"), Decision("retry", delay_s=1.0, counts=True)),
        (HandlerTimeoutError("x"), Decision("retry", delay_s=1.0, counts=True)),
        (asyncio.CancelledError(), Decision("retry", delay_s=1.0, counts=True)),
        (Retry(), Decision("retry", delay_s=1.0, counts=True)),
        (Retry(7.5), Decision("retry", delay_s=7.5, counts=True)),
        (Retry(0), Decision("retry", delay_s=0, counts=True)),
    ],
)
def test_the_first_failure_decides(failure: BaseException, expected: Decision) -> None:
    assert decide(failure, POLICY, failures=0, delivery=1) == expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ValueError("x"), Decision("dead", counts=True, reason="failed")),
        (Retry(7.5), Decision("dead", counts=True, reason="failed")),
        (HandlerTimeoutError("x"), Decision("dead", counts=True, reason="timeout")),
        (StreamFullError("x"), Decision("retry", delay_s=4.0)),
    ],
)
def test_the_last_attempt_ends_it_unless_the_bus_is_to_blame(failure: BaseException, expected: Decision) -> None:
    assert decide(failure, POLICY, failures=2, delivery=3) == expected


def test_deliveries_that_no_handler_failed_do_not_count() -> None:
    decision = decide(ValueError("x"), POLICY, failures=1, delivery=500)

    assert (decision.action, decision.delay_s) == ("retry", 2.0)


def test_the_delay_of_an_unavailable_bus_grows_to_a_minute() -> None:
    delays = [decide(BusUnavailableError("x"), POLICY, failures=0, delivery=n).delay_s for n in (1, 2, 3, 7, 900)]

    assert delays == [1.0, 2.0, 4.0, 60.0, 60.0]


def test_backoff_grows_by_the_factor_up_to_the_longest_delay() -> None:
    delays = [backoff_s(POLICY, failures) for failures in (1, 2, 3, 6, 7, 1_000_000)]

    assert delays == [1.0, 2.0, 4.0, 32.0, 60.0, 60.0]


def test_backoff_bears_any_factor() -> None:
    assert backoff_s(RetryPolicy(factor=1e30, jitter=0.0), 100) == 60.0


def test_jitter_stays_within_its_share() -> None:
    delays = [backoff_s(RetryPolicy(first_s=10, jitter=0.5), 1) for _ in range(200)]

    assert 5.0 <= min(delays) < 9.0
    assert 11.0 < max(delays) <= 15.0


def test_never_knows_an_exception_by_its_own_name_and_those_of_its_bases() -> None:
    assert names_of(KeyError("x")) == {"KeyError", "LookupError"}


def test_a_failure_is_described_in_one_line() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(Reject("not ours")) == "not ours"
    assert describe(asyncio.CancelledError()) == "CancelledError"


def test_a_description_has_a_bounded_length() -> None:
    text = describe(ValueError("x" * 5_000_000))

    assert len(text) <= MAX_TEXT
    assert text.startswith("ValueError: xxx")
    assert text.endswith("…")
