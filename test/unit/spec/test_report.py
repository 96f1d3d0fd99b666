"""The report: which name is near, how names are listed, and which problems are kept."""

import pytest

from runtime.spec.report import Fault, Place, Report, did_you_mean, listed, nearest


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("retyr", ["replicas", "retry"], "retry"),
        ("attemps", ["attempts"], "attempts"),
        ("clena", ["store", "clean"], "clean"),
        ("on_error", ["name", "env"], ""),
        ("ab", ["cd"], ""),
        ("x", [], ""),
        ("nodse", ["notes", "nodes"], "nodes"),
    ],
)
def test_nearest_takes_a_name_within_two_edits(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known) == expected


def test_swapped_letters_are_one_edit() -> None:
    assert nearest("abdc", ["abxy", "abcd"]) == "abcd"
    assert nearest("bacdef", ["abcd", "abcdef"]) == "abcdef"


def test_a_name_far_from_all_gets_the_known_ones() -> None:
    assert did_you_mean("zzz", ["clean", "score"], ["join"]) == "use clean or score"
    assert did_you_mean("jion", ["clean", "score"], ["join"]) == 'did you mean "join"?'
    assert did_you_mean("zzz", []) == "remove it"


def test_a_long_list_is_shortened() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b or c"
    assert listed(str(number) for number in range(26)).endswith("22, 23 or one of 2 more")


def test_problems_are_ordered_by_place_and_warnings_are_no_errors() -> None:
    report = Report("workflow.yaml")

    report.add(Fault(Place(3, 1), "late", "do", "bad-name"))
    report.add(Fault(Place(2, 9), "doubtful", "do", "long-retry"), warning=True)
    with report.collecting():
        raise Fault(Place(2, 10), "early", "do", "bad-size")

    assert [problem.what for problem in report.problems] == ["doubtful", "early", "late"]
    assert [problem.what for problem in report.errors] == ["early", "late"]
    assert str(report.problems[0]) == "workflow.yaml:2:9: warning: doubtful; do [long-retry]"


def test_the_same_fault_at_the_same_place_is_kept_once() -> None:
    report = Report("workflow.yaml")

    report.add(Fault(Place(1, 1), "of node a", "do", "bad-name"))
    report.add(Fault(Place(1, 1), "of node b", "do", "bad-name"))

    assert [problem.what for problem in report.problems] == ["of node a"]
