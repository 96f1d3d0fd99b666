"""`krt run` of a workflow whose streams are not what its file says, and cannot become that."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli import exits

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
FLOW = "name: flow\nnodes: [{name: echo, handler: echo.py}]\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    flow = tmp_path / "flow"
    flow.mkdir()
    (flow / "workflow.yaml").write_text(FLOW)
    (flow / "echo.py").write_text("def handler(ctx, data: dict) -> dict:\n    return data\n")
    return tmp_path


def run(place: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KRT_") or name.endswith("_BIN")}
    return subprocess.Popen(
        [sys.executable, "-m", "runtime", "run", "flow"],
        cwd=place,
        env={**kept, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_whose_manager_gives_up_ends_at_once_and_says_why(place: Path) -> None:
    with run(place) as first:
        assert first.stdout is not None
        assert any(line.startswith("ready in ") for line in first.stdout)
        first.send_signal(signal.SIGINT)
    (place / "flow" / "workflow.yaml").write_text(f"{FLOW}stream: {{storage: memory}}\n")

    with run(place) as second:
        lines, _ = second.communicate(timeout=PATIENCE_S)

    assert second.returncode == exits.CONFIG
    assert re.search(r"krt\.manager \| .* cannot be changed in place \(storage: file -> memory\); use another", lines)
    assert lines.endswith("the manager has given up, and nothing works without it: see its lines above\n")
    assert "not ready after" not in lines
