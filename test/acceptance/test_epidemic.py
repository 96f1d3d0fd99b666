"""workflows/epidemic as its README has it: the package, a sweep with its picture, and single runs."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from runtime.batch import connector
from test.acceptance.test_examples import krt, running

EXAMPLE = Path(__file__).parents[2] / "workflows" / "epidemic"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy, so that what another run has drawn is not there."""
    folder = tmp_path / "epidemic"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".krt", "__pycache__"))
    return folder


@pytest.fixture
def plot() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("epidemic_plot", EXAMPLE / "plot" / "handler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def test_the_package_has_the_contract_of_this_version() -> None:
    assert (EXAMPLE / "sir" / "krt_connector.py").read_bytes() == Path(connector.__file__).read_bytes()


def test_the_package_passes_its_test() -> None:
    done = krt(EXAMPLE, "connector", "test", "sir")

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 7


def test_without_matplotlib_the_answer_says_so(
    plot: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    assert plot.draw(str(tmp_path / "epidemic.png"), []) == "not drawn: matplotlib is not installed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nats_server_binary")
@pytest.mark.timeout(240)
def test_a_sweep_is_drawn_and_single_runs_are_watched(folder: Path, tmp_path: Path) -> None:
    job, refused = folder / "sir" / "test-job.json", folder / "sir" / "test-unsupported.json"
    with running(tmp_path, folder):
        sent = krt(tmp_path, "send", "epidemic", f"@{folder / 'sample.json'}", "--timeout", "60s")
        asked = krt(tmp_path, "runs", "submit", "epidemic", str(job), "--id", "mine")
        waited = krt(tmp_path, "runs", "submit", "epidemic/sir", str(job), "--id", "mine", "--wait")
        unsupported = krt(tmp_path, "runs", "submit", "epidemic/sir", str(refused), "--wait")
        listed = krt(tmp_path, "runs", "ls", "--json")
        logs = krt(tmp_path, "runs", "logs", "mine_sir_0")
        fetched = krt(tmp_path, "runs", "download", "mine_sir_0", "output", "-o", "here")
        letters = krt(tmp_path, "dlq", "ls", "--json")

    assert json.loads(sent.stdout) == json.loads((EXAMPLE / "expected.json").read_text())
    assert (folder / ".krt" / "epidemic.png").read_bytes().startswith(PNG)
    assert (asked.returncode, asked.stdout) == (0, "mine_sir_0\n")
    assert (waited.returncode, json.loads(waited.stdout)["status"]) == (0, "complete"), waited.stderr
    assert (unsupported.returncode, json.loads(unsupported.stdout)["status"]) == (1, "unsupported")
    states = [json.loads(line)["state"] for line in listed.stdout.splitlines()]
    assert sorted(states) == ["complete"] * 6 + ["unsupported"]
    assert logs.stdout == "r0 2.5: 233,506 infected at the peak, on day 45\n"
    assert fetched.returncode == 0
    assert sorted(os.listdir(tmp_path / "here" / "output")) == ["course.csv", "data.json"]
    assert letters.stdout == ""
    assert [path for path in (folder / ".krt" / "batch").rglob("*_sir_*")] == []
