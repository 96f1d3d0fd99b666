"""What failures and timeouts in a row cost: a table of histories."""

import pytest

from runtime.models.penalties import Counters, Event, Limits, Verdict, decide
from runtime.models.wire import FailureCode


def history(events: str, limits: Limits = Limits()) -> tuple[Counters, list[str]]:  # noqa: B008  # frozen
    """Play events: `f`ailure, `t`imeout, `s`uccess, `.` for a turn; return the last counters, and every verdict."""
    kinds = {"f": Event.FAILURE, "t": Event.TIMEOUT, "s": Event.SUCCESS, ".": Event.TURN, "n": Event.NOTHING}
    counters, verdicts = Counters(), []
    for event in events:
        decision = decide(counters, kinds[event], limits)
        counters = decision.counters
        verdicts.append(decision.code or decision.verdict.name)
    return counters, verdicts


def test_more_failures_in_a_row_than_allowed_are_reported() -> None:
    _, verdicts = history("ffff")

    assert verdicts == ["GO_ON", "GO_ON", "GO_ON", FailureCode.MULTIPLE_FAILED]


def test_more_timeouts_in_a_row_than_allowed_are_reported() -> None:
    _, verdicts = history("tttt")

    assert verdicts == ["PROBE", "PROBE", "PROBE", FailureCode.MULTIPLE_TIMEOUT]


def test_the_first_success_clears_every_penalty() -> None:
    counters, verdicts = history("ffftts")

    assert counters == Counters()
    assert verdicts[-1] == "GO_ON"


def test_a_limit_of_zero_never_reports() -> None:
    limits = Limits(failures=0, timeouts=0)

    _, verdicts = history("f" * 100 + "t" * 100, limits)

    assert set(verdicts) == {"GO_ON", "PROBE"}


@pytest.mark.parametrize(("timeouts", "missed"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 5)])
def test_after_timeouts_half_as_many_turns_are_missed_then_one_is_let_through(timeouts: int, missed: int) -> None:
    _, verdicts = history("t" * timeouts + "." * (missed + 2), Limits(timeouts=100))

    assert verdicts[timeouts:] == ["SKIP"] * missed + ["CALL", "CALL"]


def test_skipped_calls_are_not_counted_as_timeouts() -> None:
    """An upstream flaw: with them a model was stopped after two real timeouts."""
    counters, _ = history("t" + "." * 50 + "t" + "." * 50)

    assert counters.timeouts == 2


@pytest.mark.parametrize(("limit", "each"), [(0, 1), (3, 1), (9, 1), (10, 2), (25, 5)])
def test_a_probe_is_due_each_fifth_of_the_limit(limit: int, each: int) -> None:
    _, verdicts = history("t" * 10, Limits(timeouts=limit))

    probed = [number for number, verdict in enumerate(verdicts, start=1) if verdict == "PROBE"]
    assert probed == [number for number in range(each, 11, each) if not limit or number <= limit]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (Event.BAD_IMPLEMENTATION, FailureCode.BAD_IMPLEMENTATION),
        (Event.SETUP_FAILED, FailureCode.MULTIPLE_FAILED),
        (Event.UNREACHABLE, FailureCode.CONNECTION_FAILED),
    ],
)
def test_what_time_cannot_heal_is_reported_at_once(event: Event, code: FailureCode) -> None:
    decision = decide(Counters(), event, Limits(failures=0, timeouts=0))

    assert (decision.verdict, decision.code) == (Verdict.REPORT, code)


def test_what_is_not_the_models_doing_changes_nothing() -> None:
    counters, _ = history("ft")

    decision = decide(counters, Event.NOTHING, Limits())

    assert (decision.counters, decision.verdict) == (counters, Verdict.GO_ON)
