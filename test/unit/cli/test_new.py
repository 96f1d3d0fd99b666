"""`krt new`: what it makes works at once, and it overwrites nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import errors
from runtime.cli.new import make
from runtime.cli.scaffold import FILES

ROOT = Path(__file__).parents[3]


def run_python(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Whoever makes a workflow has pytest, and not the plugins of this environment.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=50
    )


@pytest.mark.timeout(60)
def test_the_test_of_a_new_workflow_passes_at_once(tmp_path: Path) -> None:
    make("demo", tmp_path, FILES)

    done = run_python(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-q", "demo")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.timeout(60)
def test_the_check_of_a_new_workflow_finds_nothing(tmp_path: Path) -> None:
    make("demo", tmp_path, FILES)

    done = run_python(tmp_path, "-m", "runtime", "check", "demo", "--strict")

    assert (done.returncode, done.stdout) == (0, "workflow demo: 1 node, ok\n")


@pytest.mark.timeout(60)
def test_the_command_tells_what_to_do_next(tmp_path: Path) -> None:
    done = run_python(tmp_path, "-m", "runtime", "new", "my-demo")

    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "my-demo/ is a workflow of one node, my-demo/greet/handler.py",
        "",
        "  krt run my-demo                        in one shell",
        """  krt send my-demo '{"name": "Ada"}'     in a second one""",
        "  pytest my-demo                         its test: nothing has to run",
    ]


def test_the_files_bear_the_name_of_the_workflow(tmp_path: Path) -> None:
    folder = make("demo", tmp_path, FILES)

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["README.md", "greet/handler.py", "test_workflow.py", "workflow.yaml"]
    assert (folder / "workflow.yaml").read_text().startswith("name: demo\n")
    assert not [path for path in files if "NAME" in (folder / path).read_text()]


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()

    with pytest.raises(errors.ConfigError, match=r"^demo exists already; choose another name, or remove it$"):
        make("demo", tmp_path, FILES)

    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My Demo", '"My Demo" is no name; use a-z, 0-9 and "-", 40 characters at most: "my-demo"'),
        ("../demo", '"../demo" is no name; use a-z, 0-9 and "-", 40 characters at most: "demo"'),
        ("", '"" is no name; use a-z, 0-9 and "-", 40 characters at most'),
        ("runtime", '"runtime" is the package that handlers import; choose another name'),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_a_better_one(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError) as refused:
        make(name, tmp_path, FILES)

    assert str(refused.value) == words
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="cannot be made: No such file or directory"):
        make("demo", tmp_path / "missing", FILES)
