"""The lines of a process over its starts: all that is new is shown, in its order, and nothing twice."""

import pytest

from runtime.deploy.printed import MAX_COMPARED_LINES, Printed

FAILURE = ["12:00 starting", "no model", "12:00 stopping"]


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def printed(shown: list[str]) -> Printed:
    """One that has failed once."""
    printed = Printed(shown.append)
    start(printed, FAILURE)
    assert shown == FAILURE
    shown.clear()
    return printed


def start(printed: Printed, lines: list[str]) -> bool:
    printed.begin()
    for line in lines:
        printed.take(line)
    return printed.end()


def test_a_start_that_fails_as_the_one_before_shows_nothing(printed: Printed, shown: list[str]) -> None:
    assert [start(printed, FAILURE), start(printed, FAILURE)] == [True, True]

    assert shown == []


def test_times_make_no_difference(shown: list[str]) -> None:
    printed = Printed(shown.append)

    ends = [start(printed, [f"2026-11-22T10:00:0{second}.000Z ERROR no model"]) for second in range(3)]

    assert ends == [False, True, True]
    assert shown == ["2026-11-22T10:00:00.000Z ERROR no model"]


def test_a_start_that_fails_in_another_way_is_shown_as_a_whole(printed: Printed, shown: list[str]) -> None:
    other = ["12:00 starting", "no key", "12:00 stopping"]

    assert start(printed, other) is False

    assert shown == other


def test_a_start_that_ends_before_it_has_failed_as_before_is_shown(printed: Printed, shown: list[str]) -> None:
    assert start(printed, FAILURE[:1]) is False

    assert shown == FAILURE[:1]


def test_the_first_line_that_differs_is_shown_at_once_with_those_before_it(printed: Printed, shown: list[str]) -> None:
    printed.begin()
    printed.take(FAILURE[0])
    assert shown == []

    printed.take("half of it is loaded")

    assert shown == [FAILURE[0], "half of it is loaded"]


def test_a_start_that_succeeds_shows_what_was_held_back(printed: Printed, shown: list[str]) -> None:
    printed.begin()
    printed.take(FAILURE[0])

    printed.forget()
    printed.take(FAILURE[1])

    assert shown == FAILURE[:2]
    assert start(printed, FAILURE) is False
    assert shown == FAILURE[:2] + FAILURE


def test_of_a_start_that_prints_very_much_the_rest_is_shown(shown: list[str]) -> None:
    printed = Printed(shown.append)
    much = [str(number) for number in range(MAX_COMPARED_LINES + 1)]

    assert [start(printed, much), start(printed, much)] == [False, False]

    assert shown == much + much


def test_the_error_is_the_last_one_of_this_start(shown: list[str]) -> None:
    printed = Printed(shown.append)

    start(printed, ["2026-11-22T10:00:00.000Z ERROR one", "2026-11-22T10:00:00.000Z ERROR two action=failed", "end"])
    told = printed.error
    printed.begin()

    assert (told, printed.error) == ("two", "")
