"""`krt status` beside `krt run`: the processes that are alive, by their own word."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import exits
from test.acceptance.test_run import SAVE, Run, environment, krt

# Looks, one a second, after which something that has to show has not: a killed process counts for up to 12 s.
LOOKS = 30


@pytest.fixture
def flow(tmp_path: Path, nats_server_binary: Path) -> Iterator[Run]:
    """A run of one node that saves a document and a measurement."""
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "workflow.yaml").write_text("name: flow\nnodes: [{name: save, handler: handler.py}]\n")
    measured = SAVE.replace("return", 'ctx.measurement.save("seen", {"size": 1})\n    return')
    (folder / "handler.py").write_text(measured)
    started = Run(tmp_path, "flow")
    try:
        started.wait_for("ready in")
        yield started
        started.stop()
    finally:
        started.end()


@contextmanager
def watching(place: Path) -> Iterator[Callable[[Callable[[Any], bool]], Any]]:
    """Watch the status; the function waits for a look at the workflow that is as asked for, and returns it."""
    with subprocess.Popen(
        [sys.executable, "-m", "runtime", "status", "flow", "--watch", "--json"],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = process.stdout

        def look_until(condition: Callable[[Any], bool]) -> Any:
            seen = None
            for _ in range(LOOKS):
                seen = json.loads(lines.readline())["flow"]
                if condition(seen):
                    return seen
            raise AssertionError(f"{LOOKS} looks, and still {seen}")

        try:
            yield look_until
        finally:
            process.send_signal(signal.SIGINT)


def counters(status: Any) -> dict[str, int]:
    return {name: count for node in status["nodes"] for name, count in node["live"][0]["counters"].items()}


def test_the_status_shows_who_is_alive_and_what_they_have_counted(flow: Run, tmp_path: Path) -> None:
    with watching(tmp_path) as look_until:
        flow.answer('{"a": 1}')

        status = look_until(
            lambda seen: (
                len(seen["services"]) == 2
                and len(seen["nodes"][0]["live"]) == 1
                and counters(seen)["points_written"] == 2
                and any(service["counters"].get("stored") for service in seen["services"])
            )
        )

    (node,) = status["nodes"][0]["live"]
    assert (node["name"], node["workflow"], node["pid"]) == ("save", "flow", flow.processes()["save"]["pid"])
    assert status["nodes"][0]["points"] == {"written": 2, "retried": 0, "dropped": 0}
    assert counters(status)["ok"] == 1
    assert {service["kind"]: service["counters"] for service in status["services"]} == {
        "manager": {},
        "writer": {"stored": 1, "refused": 0, "postponed": 0},
    }


def test_a_killed_process_disappears_and_its_successor_shows(flow: Run, tmp_path: Path) -> None:
    with watching(tmp_path) as look_until:
        (before,) = look_until(lambda seen: len(seen["nodes"][0]["live"]) == 1)["nodes"][0]["live"]

        os.kill(before["pid"], signal.SIGKILL)

        status = look_until(lambda seen: [each["pid"] != before["pid"] for each in seen["nodes"][0]["live"]] == [True])
        assert status["nodes"][0]["live"][0]["instance"] != before["instance"]


def test_a_node_that_does_not_start_is_told_once_in_full_and_by_the_status(tmp_path: Path, flow: Run) -> None:
    handler = "def init(ctx):\n    raise RuntimeError('no [model] here')\n\n\n"
    (tmp_path / "flow" / "handler.py").write_text(handler + SAVE.strip() + "\n")
    os.kill(flow.processes()["save"]["pid"], signal.SIGKILL)
    flow.wait_for("save ended with exit code 1 as before")

    shown = krt(tmp_path, "status", "flow")

    assert shown.returncode == exits.OK, shown.stderr
    told = " ".join(shown.stdout.split())  # which is as wide as the terminal
    assert re.search(
        r" failing: save \([a-z-]+, \d restarts\): the node has failed: RuntimeError: no \[model\] here ", told
    )
    assert len([line for line in flow.lines if "Traceback" in line]) == 1
