"""The benchmark's table and JSON tell of a contender that could not be measured."""

import json
from pathlib import Path

import pytest

from test.bench.report import Row, print_table, write_json

MISSING = Row.missing("HTTP, 64 connections", "peer 1.0", "it could not be installed: ERROR: no [index] here")


def test_the_table_says_who_was_not_measured_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([MISSING], {"cores": 2}, notes=())

    row, reason = capsys.readouterr().out.splitlines()[-2:]
    assert row.split() == ["HTTP,", "64", "connections", "peer", "1.0", "not", "measured"]
    assert reason == "peer 1.0: it could not be installed: ERROR: no [index] here"


def test_a_missing_value_is_null_in_the_json(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"

    write_json(written, [MISSING], {"cores": 2})

    (row,) = json.loads(written.read_text())["measurements"]
    assert (row["value"], row["verdict"]) == (None, "")
    assert row["why_missing"] == MISSING.why_missing
