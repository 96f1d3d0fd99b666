"""The walk-through of docs/algorithms.md, command by command, with the output that it shows."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bus.embedded import EmbeddedServer

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "algorithms.md"


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[str]]]:
    """Runners that the page starts, ended after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Yield what the page does: the path and content of a file, or `$` with a command and the output to come."""
    section = page.partition("## In five minutes")[2].partition("From Python:")[0]
    for before, language, block in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", section, re.DOTALL):
        if language == "python":
            [path] = re.findall(r"`(\w+/runner_adapter\.py)`", before)
            yield path, block
            continue
        for command, output in re.findall(r"^\$ ([^\n]*)\n((?:[^$\n][^\n]*\n)*)", block, re.MULTILINE):
            yield f"$ {command}", output


@pytest.mark.timeout(180)
def test_the_walk_through_shows_what_happens(
    nats_server: EmbeddedServer, tmp_path: Path, background: list[subprocess.Popen[str]]
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KRT_")}
    environ |= {"KRT_NATS_SERVER": nats_server.url, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    taken = []

    for step, content in steps(PAGE.read_text()):
        taken.append(step)
        if not step.startswith("$ "):
            (tmp_path / step).parent.mkdir()
            (tmp_path / step).write_text(content)
            continue
        command = step.removeprefix("$ ").replace("krt ", f"{sys.executable} -m runtime ", 1)
        if command.endswith("&"):
            arguments = command.removesuffix("&").split()
            process = subprocess.Popen(arguments, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True)
            background.append(process)
            assert process.stderr is not None
            assert any("ready:" in line for line in iter(process.stderr.readline, "")), step
        else:
            done = subprocess.run(command, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True)
            shown = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
            assert shown == [line.rstrip() for line in content.splitlines()], step

    assert len(taken) == 8
