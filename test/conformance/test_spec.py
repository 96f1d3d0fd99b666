"""Workflow files with what `krt check` makes of them: models of the valid ones, the whole report of the others.

A code is stable, so each has a file `spec/invalid/CODE.yaml` with `CODE.txt`, every line of its report.
"""

import json
from pathlib import Path
from typing import get_args

import pytest

from runtime.cli.driver_check import check_drivers
from runtime.cli.imports import check_handlers
from runtime.errors import WorkflowError
from runtime.spec.load import load, load_report
from runtime.spec.report import Code

VALID = Path(__file__).parent / "spec" / "valid"
INVALID = Path(__file__).parent / "spec" / "invalid"

# Codes that need the handlers' files beside the workflow file.
CODES_OF_FILES = {"missing-file"}
# Codes that only importing the handlers shows.
CODES_OF_IMPORTS = {"edge-type", "handler-import", "handler-signature", "unchecked-edge", "unknown-channel", "unread"}
# Codes that only importing the drivers shows.
CODES_OF_DRIVERS = {"driver-import", "driver-value"}
# Codes of warnings: the workflow loads.
CODES_OF_WARNINGS = {"idle-replicas", "long-retry", "order-at-risk", "unchecked-edge", "unread"}
# There is no file that shows what happens without one; test_load.py has it.
CODES_WITHOUT_A_FILE = {"unreadable"}


@pytest.mark.parametrize("file", sorted(VALID.glob("*.yaml")), ids=lambda file: file.stem)
def test_valid_file_gives_the_expected_workflow(file: Path) -> None:
    workflow = load(file)

    expected = json.loads(file.with_suffix(".json").read_text())
    assert workflow.model_dump(mode="json", exclude={"folder", "path"}) == expected
    assert (workflow.folder, workflow.path) == (VALID, file)


@pytest.mark.parametrize("file", sorted(INVALID.glob("*.yaml")), ids=lambda file: file.stem)
def test_invalid_file_gives_the_expected_problems(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(INVALID)

    loaded = load_report(file.name, check_handlers=file.stem in CODES_OF_FILES | CODES_OF_IMPORTS)
    if file.stem in CODES_OF_IMPORTS:
        check_handlers(loaded)
    if file.stem in CODES_OF_DRIVERS:
        check_drivers(loaded)

    assert [str(problem) for problem in loaded.report.problems] == file.with_suffix(".txt").read_text().splitlines()
    assert file.stem in {problem.code for problem in loaded.report.problems}
    assert bool(loaded.report.errors) == (file.stem not in CODES_OF_WARNINGS)


def test_every_code_has_its_file() -> None:
    shown = {file.stem for file in INVALID.glob("*.yaml")}

    assert shown == set(get_args(Code)) - CODES_WITHOUT_A_FILE


def test_load_raises_every_problem_at_once() -> None:
    file = INVALID / "out-of-range.yaml"

    with pytest.raises(WorkflowError) as caught:
        load(file)

    assert len(caught.value.problems) == 24
    assert str(caught.value).count("\n") == 23
