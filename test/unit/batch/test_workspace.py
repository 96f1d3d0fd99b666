"""The folders of a run: nothing of them is left."""

import os
from pathlib import Path

import pytest

from runtime.batch.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "r_flood_0")
    made.make(b"{}", shared=False)
    return made


def test_folders_nested_deeper_than_python_calls_are_removed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.chdir(workspace.output)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")

    workspace.remove()

    assert not workspace.root.exists()


def test_a_link_is_removed_and_not_what_it_leads_to(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (workspace.output / "link").symlink_to(tmp_path / "kept")

    workspace.remove()

    assert (tmp_path / "kept/file").exists()
    assert not workspace.root.exists()
