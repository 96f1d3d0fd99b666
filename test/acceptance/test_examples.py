"""Every folder of `workflows/` does what its README says: in memory, and as processes through `krt`."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from runtime.testing import run_workflow

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "workflows"
EXAMPLES = sorted(path.parent.name for path in WORKFLOWS.glob("*/workflow.yaml"))

# What `krt send` needs beside the sample.
SEND_OPTIONS = {
    "camera": ["--message", "google.protobuf.wrappers_pb2:BytesValue"],
    "greeter": ["--message", "public_input_pb2:Request"],
    "vision": ["--message", "google.protobuf.wrappers_pb2:BytesValue"],
}
# Whose sample is a picture, as base64.
TAKE_BYTES = {"camera", "vision"}
# Held-out digits: every third of 1,797.
HELD_OUT = 599
# Seconds until everything of a run is ready, on a machine that does other things as well.
READY_WITHIN_S = 60.0

needs_nats = pytest.mark.usefixtures("nats_server_binary")
each_example = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPUs of this machine: `expected.json` of cuda-smoke is that of a machine without one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def content(name: str, file: str) -> Any:
    return json.loads((WORKFLOWS / name / file).read_text())


def assert_as_expected(answer: Any, name: str) -> None:
    """Compare an answer with the example's `expected.json`; floats may differ where machines calculate differently."""
    expected = content(name, "expected.json")
    floats = [key for key, value in expected.items() if isinstance(value, float)]
    assert answer == {**expected, **{key: pytest.approx(expected[key], abs=0.01) for key in floats}}


def krt(place: Path, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def environment() -> dict[str, str]:
    """Return the variables of a child: it finds this tree, and writes what it prints at once."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(place: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start `krt run`, wait until it says that it is ready, and stop it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "run", str(folder)],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Reading ends, and the test fails, when the process is not ready in time.
    overdue = threading.Timer(READY_WITHIN_S, process.kill)
    overdue.start()
    try:
        wait_until_ready(process)
        overdue.cancel()
        yield process
    finally:
        overdue.cancel()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "ready in" in line:
            return
    raise AssertionError(f"krt run ended before it was ready:\n{''.join(lines)}")


def test_the_three_examples_are_there() -> None:
    assert {"hello", "greeter", "digits"} <= set(EXAMPLES)


@each_example
def test_an_example_has_a_readme_and_passes_the_strict_check(name: str) -> None:
    checked = krt(ROOT, "check", f"workflows/{name}", "--strict")

    assert (WORKFLOWS / name / "README.md").is_file()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_example
def test_an_example_answers_its_sample_in_memory(name: str) -> None:
    sample = content(name, "sample.json")

    with run_workflow(WORKFLOWS / name) as workflow:
        if name == "greeter":
            from public_input_pb2 import Request  # type: ignore[import-not-found]  # in the example's folder

            reply = workflow.send(json_format.ParseDict(sample, Request()))
            answer = json_format.MessageToDict(reply)
        else:
            answer = workflow.send(base64.b64decode(sample) if name in TAKE_BYTES else sample)
        dead = workflow.dead_letters()

    assert_as_expected(answer, name)
    assert dead == []


@needs_nats
@each_example
def test_an_example_answers_its_sample_as_processes(name: str, tmp_path: Path) -> None:
    sample = f"@{WORKFLOWS / name / 'sample.json'}"

    with running(tmp_path, WORKFLOWS / name):
        sent = krt(tmp_path, "send", name, sample, *SEND_OPTIONS.get(name, []))

    assert sent.returncode == 0, sent.stderr
    assert_as_expected(json.loads(sent.stdout), name)


@needs_nats
def test_the_digits_demo_stores_one_prediction_per_message_every_time(tmp_path: Path) -> None:
    for _ in range(2):  # the second run finds the data of the first
        done = krt(tmp_path, "run", str(WORKFLOWS / "digits"), "--demo", timeout_s=100)

        assert done.returncode == 0, done.stdout + done.stderr
        assert f"stored        {HELD_OUT} predictions and {HELD_OUT} measurements" in done.stdout
        accuracy = re.search(r"accuracy\s+([\d.]+)% \((\d+) of (\d+)\)", done.stdout)
        assert accuracy is not None
        assert (float(accuracy[1]) >= 95, int(accuracy[3])) == (True, HELD_OUT)
        cells = [int(cell) for row in re.findall(r"^      \d {11}(.+)$", done.stdout, re.M) for cell in _counts(row)]
        assert (len(cells), sum(cells)) == (100, HELD_OUT)


def _counts(row: str) -> list[str]:
    return row.replace(".", "0").split()


def test_what_digits_saves_has_the_true_value(tmp_path: Path) -> None:
    sample = content("digits", "sample.json")

    with run_workflow(WORKFLOWS / "digits") as workflow:
        workflow.send(sample)
        workflow.send({"pixels": sample["pixels"]})
        predictions = workflow.documents("classificationMetrics")
        measured = workflow.points("digit")

    assert [(each["predictedValue"], each["trueValue"], each["error"]) for each in predictions] == [
        ("2", "2", ""),
        ("2", "", "missing_values"),
    ]
    assert [point.fields.get("correct") for point in measured] == [True, None]


@needs_nats
def test_the_driver_of_camera_writes_one_line_for_each_picture_over_two_runs(tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    shutil.copytree(WORKFLOWS / "camera", folder, ignore=shutil.ignore_patterns(".krt"))
    expected = (folder / "expected-frames.jsonl").read_text()
    seen = folder / ".krt" / "seen.jsonl"

    with running(tmp_path, folder):
        wait_for_lines(seen, 6)
    shutil.copy(folder / "frames" / "frame-001.png", folder / "frames" / "frame-007.png")
    with running(tmp_path, folder):
        wait_for_lines(seen, 7)

    *first, last = seen.read_text().splitlines()
    assert first == expected.splitlines()
    assert json.loads(last) == {"file": "frame-007.png", "frame": 7, "x": 1.0, "y": 1.0, "moved": 17.69}


def wait_for_lines(path: Path, count: int) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline_s, path
        time.sleep(0.05)


@needs_nats
def test_a_scaffold_runs_and_answers(tmp_path: Path) -> None:
    assert krt(tmp_path, "new", "demo").returncode == 0

    with running(tmp_path, Path("demo")):
        sent = krt(tmp_path, "send", "demo", '{"name": "Ada"}')

    assert (sent.returncode, sent.stdout) == (0, '{"greeting":"Hello, Ada!"}\n')
