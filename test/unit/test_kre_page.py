"""docs/kre.md says of each defect of KRE's which tests show that ours does not have it: they have to exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "kre.md"
# Rows of the table: one for each defect that was found in KRE's runner, writer and libraries.
DEFECTS = 34

_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """Return the cells of the table's rows."""
    _, table = PAGE.read_text().split("| KRE | here | shown by |\n|---|---|---|\n")
    lines = table.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@functools.cache
def functions_of(file: str) -> frozenset[str]:
    path = TESTS / file
    if not path.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, functions))


def test_every_defect_has_a_row() -> None:
    assert len(rows()) == DEFECTS
    assert len({defect for defect, *_ in rows()}) == DEFECTS


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", " ", row[0])[:40].strip())
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    _, instead, shown_by = row

    named = _TEST.findall(shown_by)

    assert instead
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []
