"""`krt check` compares what a sink takes with what the node before it sends."""

from pathlib import Path

import pytest

from runtime.cli.imports import check_handlers
from runtime.spec.load import load_report

SCORE = """
from dataclasses import dataclass


@dataclass
class Score:
    id: int
    value: float
    label: str


def handler(ctx, data: dict) -> {type}:
    return data
"""


def problems(folder: Path, sink: str, returned: str = "Score") -> list[str]:
    (folder / "score.py").write_text(SCORE.replace("{type}", returned))
    (folder / "workflow.yaml").write_text(
        f"name: doc\nnodes:\n  - {{name: score, handler: score.py}}\n  - {{name: store, sink: {sink}}}\n"
    )
    loaded = load_report(folder / "workflow.yaml", check_handlers=True)
    check_handlers(loaded)
    return [problem.what for problem in loaded.report.problems if problem.code != "unread"]


@pytest.mark.parametrize(
    "sink",
    [
        "{collection: scores}",
        "{collection: scores, key: id}",
        "{collection: scores, key: label}",
        "{measurement: score, fields: [value, id], tags: [label], time: id}",
        "{measurement: score}",
    ],
)
def test_a_sink_takes_what_has_its_fields(tmp_path: Path, sink: str) -> None:
    assert problems(tmp_path, sink) == []


@pytest.mark.parametrize(
    ("sink", "mismatch"),
    [
        ("{collection: scores, key: name}", '"name" is not sent (score.py:12) and is required here (node "store")'),
        ("{collection: scores, key: value}", '"value" is a number (score.py:12) and text or a whole number here'),
        ("{measurement: score, fields: [label]}", '"label" is text (score.py:12) and a number or true or false here'),
        ("{measurement: score, time: at}", '"at" is not sent (score.py:12)'),
    ],
)
def test_what_a_sink_could_never_store_is_found(tmp_path: Path, sink: str, mismatch: str) -> None:
    (found,) = problems(tmp_path, sink)

    assert found.startswith('"store" cannot read what "score" sends: Score is sent and ')
    assert mismatch in found


@pytest.mark.parametrize("returned", ["bytes", "str", "list[int]"])
def test_what_is_no_object_is_found(tmp_path: Path, returned: str) -> None:
    (found,) = problems(tmp_path, "{collection: scores}", returned)

    assert found.startswith('"store" cannot read what "score" sends')


def test_a_handler_that_says_little_is_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "{collection: scores, key: id}", "dict") == []
