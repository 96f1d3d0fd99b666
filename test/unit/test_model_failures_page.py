"""docs/model-failures.md says which tests show what becomes of each failure: they have to exist."""

import re
from pathlib import Path

import pytest

from test.unit.test_kre_page import functions_of

PAGE = Path(__file__).parents[2] / "docs" / "model-failures.md"
SUITE = "acceptance/test_model_failures.py"
# Rows of its two tables.
CASES = 33

_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of the rows of both tables."""
    lines = [line for line in PAGE.read_text().splitlines() if _TEST.search(line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_case_has_a_row() -> None:
    assert len(rows()) == CASES
    assert len({case for case, *_ in rows()}) == CASES


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", " ", row[0])[:40].strip())
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    _, seen, shown_by = row

    named = _TEST.findall(shown_by)

    assert seen
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []


def test_every_test_of_the_suite_has_a_row() -> None:
    named = {name for row in rows() for file, name in _TEST.findall(row[2]) if file == SUITE}

    assert named == {name for name in functions_of(SUITE) if name.startswith("test_")}
