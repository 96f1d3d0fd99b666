"""The tree: places, aliases, and files that would harm a plain YAML loader."""

import pytest

from runtime.spec.report import Place, Report
from runtime.spec.tree import MAX_DEPTH, MAX_SIZE, Items, Mapping, Text, Value, parse


def read(text: str) -> Value:
    report = Report("workflow.yaml")
    value = parse(text.encode(), report)
    assert value is not None, report.problems
    assert report.problems == ()
    return value


def fault(data: bytes) -> tuple[int, int, str]:
    report = Report("workflow.yaml")
    parse(data, report)
    (problem,) = report.problems
    return problem.line, problem.column, problem.code


def test_values_keep_their_text_and_place() -> None:
    root = read("a: 010\nb:\n  - on\n  - 'x y'\n")

    assert isinstance(root, Mapping)
    octal, items = root.get("a"), root.get("b")
    assert isinstance(octal, Text) and isinstance(items, Items)
    assert (octal.text, octal.place) == ("010", Place(1, 4))
    assert [(item.text, item.plain, item.place) for item in items.items if isinstance(item, Text)] == [
        ("on", True, Place(3, 5)),
        ("x y", False, Place(4, 5)),
    ]


def test_an_alias_stands_for_the_value_that_was_anchored() -> None:
    root = read("a: &x {b: 1}\nc: *x\n")

    assert isinstance(root, Mapping)
    assert root.get("a") is root.get("c")


def test_size_counts_aliases_as_often_as_they_are_used() -> None:
    root = read("a: &x [hello]\nb: *x\nc: *x\n")

    # Mapping 1, keys 2 each, and three times a list of one text of five.
    assert root.size == 1 + 3 * 2 + 3 * (1 + 1 + 5)


def test_depth_is_allowed_up_to_the_limit() -> None:
    read("[" * MAX_DEPTH + "]" * MAX_DEPTH)

    assert fault(b"[" * (MAX_DEPTH + 1)) == (1, MAX_DEPTH + 1, "too-deep")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"[" * 500_000, (1, 51, "too-deep"), id="half a million brackets"),
        pytest.param(b"- " * 5000, (1, 101, "too-deep"), id="nested blocks"),
        pytest.param(b"a: " + b"x" * MAX_SIZE, (1, 1, "too-large"), id="more bytes than allowed"),
        pytest.param(b"a: 1\n\xff", (2, 1, "encoding"), id="no UTF-8"),
        pytest.param(b"", (1, 1, "empty-file"), id="nothing"),
        pytest.param(b"# only a comment\n", (1, 1, "empty-file"), id="only a comment"),
        pytest.param(b"a: 1\nb: \x07\n", (2, 4, "yaml-syntax"), id="a control character"),
        pytest.param(b"a: *x\n", (1, 4, "yaml-syntax"), id="an alias of nothing"),
        pytest.param(b"a: &x [*x]\n", (1, 8, "yaml-syntax"), id="an alias of what is around it"),
        pytest.param(b"a: 1\n---\nb: 2\n", (2, 1, "yaml-syntax"), id="a second document"),
        pytest.param(b"{[a]: 1}\n", (1, 2, "yaml-syntax"), id="a list as a key"),
        pytest.param(b'a: "\\UFFFFFFFF"\n', (1, 1, "yaml-syntax"), id="an escape beyond Unicode"),
        pytest.param(b'a: "\\uD800"\n', (1, 4, "yaml-syntax"), id="half a character"),
        pytest.param(b"a: 1\n\tb: 2\n", (2, 1, "yaml-syntax"), id="a tab"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(data: bytes, expected: tuple[int, int, str]) -> None:
    assert fault(data) == expected


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    root = read("\ufeffa: 1")

    assert isinstance(root, Mapping) and root.get("a") is not None
