"""What counts as an edit of a workflow's folder."""

from pathlib import Path

from runtime.cli.reload import stamps


def seen(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in stamps(folder)}


def test_handlers_their_modules_and_workflow_files_are_watched(tmp_path: Path) -> None:
    (tmp_path / "score").mkdir()
    for name in ("workflow.yaml", "other.yml", "handler.py", "score/model.py", "data.csv", "score/weights.bin"):
        (tmp_path / name).touch()

    assert seen(tmp_path) == {"workflow.yaml", "other.yml", "handler.py", "score/model.py"}


def test_caches_and_hidden_folders_are_not(tmp_path: Path) -> None:
    for folder in ("__pycache__", ".krt", ".venv/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "module.py").touch()

    assert seen(tmp_path) == set()


def test_a_change_of_size_shows_even_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    file = tmp_path / "handler.py"
    file.write_text("a")
    before = stamps(tmp_path)

    file.write_text("ab")

    assert stamps(tmp_path) != before


def test_a_link_to_nowhere_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "handler.py").symlink_to(tmp_path / "gone.py")

    assert seen(tmp_path) == set()
