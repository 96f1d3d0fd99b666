"""docs/batch.md names for each fault the tests that show its end: they have to exist."""

import re
from pathlib import Path

import pytest

from test.conformance.batch.backend_suite import SUITE
from test.unit.test_kre_page import functions_of

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
CASES = 23

_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of the table's rows."""
    _, table = PAGE.read_text().split("| case | end | shown by |\n|---|---|---|\n")
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.split("\n\n")[0].splitlines()]


def test_every_case_has_a_row() -> None:
    assert len({case for case, *_ in rows()}) == len(rows()) == CASES


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", " ", row[0])[:40].strip())
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    named = _TEST.findall(row[-1])

    assert named
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []


def test_every_named_check_of_backends_is_in_their_suite() -> None:
    named = {name for row in rows() for file, name in _TEST.findall(row[-1]) if file.endswith("backend_suite.py")}

    assert named
    assert named <= {check.__name__ for check in SUITE}
