"""Manifests of KRE, of both versions, with the workflows they stand for; the invalid ones are in `test_spec.py`."""

import json
from pathlib import Path

import pytest

from runtime.spec.dump import plain, yaml_text
from runtime.spec.load import load, load_report

MANIFESTS = Path(__file__).parent / "spec" / "krt-yml"

each_manifest = pytest.mark.parametrize("file", sorted(MANIFESTS.glob("*.yaml")), ids=lambda file: file.stem)


@each_manifest
def test_a_manifest_gives_the_expected_workflow(file: Path) -> None:
    workflow = load(file)

    expected = json.loads(file.with_suffix(".json").read_text())
    assert workflow.model_dump(mode="json", exclude={"folder", "path"}) == expected
    assert (workflow.folder, workflow.path) == (MANIFESTS, file)


@each_manifest
def test_the_converted_file_gives_the_same_workflow(file: Path, tmp_path: Path) -> None:
    loaded = load_report(file)
    assert loaded.document is not None
    converted = tmp_path / "workflow.yaml"
    converted.write_text(yaml_text(plain(loaded.document)))

    workflow = load(converted)

    place = {"folder": MANIFESTS, "path": file}
    assert workflow.model_copy(update=place) == loaded.workflow


@each_manifest
def test_a_manifest_has_no_problem(file: Path) -> None:
    assert load_report(file).report.problems == ()
