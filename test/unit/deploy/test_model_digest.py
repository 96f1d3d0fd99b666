"""The digest of what a model host would start: what changes it, and what does not."""

from pathlib import Path
from typing import Any

import pytest

from runtime.deploy import model_digest
from runtime.deploy.model_digest import ModelDigests
from runtime.spec.models_file import DesiredModel


@pytest.fixture
def model(tmp_path: Path) -> DesiredModel:
    write(tmp_path, {"code/tracker.py": "a = 1", "code/deep/more.py": "", "data/weights.bin": "0101"})
    return DesiredModel(id="m1", name="alpha", code=tmp_path / "code", resources=tmp_path / "data")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_the_same_folders_have_the_same_digest_for_any_reader(model: DesiredModel) -> None:
    assert ModelDigests().of(model) == ModelDigests().of(model)


@pytest.mark.parametrize(
    "files",
    [{"code/tracker.py": "a = 22"}, {"code/new.py": ""}, {"data/weights.bin": "010101"}],
    ids=["a file is edited", "a file is added", "a resource is edited"],
)
def test_an_edit_changes_it(model: DesiredModel, tmp_path: Path, files: dict[str, str]) -> None:
    digests = ModelDigests()
    before = digests.of(model)

    write(tmp_path, files)

    assert digests.of(model) != before


def test_a_file_that_is_renamed_changes_it(model: DesiredModel) -> None:
    digests = ModelDigests()
    before = digests.of(model)

    (model.code / "tracker.py").rename(model.code / "other.py")

    assert digests.of(model) != before


@pytest.mark.parametrize(
    "change", [{"class_name": "tracker:Beta"}, {"memory_bytes": 1024}, {"resources": None}], ids=str
)
def test_what_the_process_is_given_changes_it(model: DesiredModel, change: dict[str, Any]) -> None:
    digests = ModelDigests()

    assert digests.of(model.model_copy(update=change)) != digests.of(model)


def test_other_hardware_changes_it(model: DesiredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ModelDigests().of(model)

    monkeypatch.setattr(model_digest, "hardware", lambda: "arm64 2 cores H200")

    assert ModelDigests().of(model) != before


def test_names_and_infos_do_not_change_it(model: DesiredModel) -> None:
    digests = ModelDigests()

    renamed = model.model_copy(update={"name": "beta", "infos": {"owner": "bob"}, "desired": "stopped"})

    assert digests.of(renamed) == digests.of(model)


def test_caches_and_hidden_files_do_not_change_it(model: DesiredModel) -> None:
    digests = ModelDigests()
    before = digests.of(model)

    write(model.code, {"__pycache__/tracker.pyc": "x", ".git/HEAD": "x", ".env": "x"})

    assert digests.of(model) == before
