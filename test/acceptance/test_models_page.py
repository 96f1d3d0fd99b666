"""The walk through docs/models.md: its files are written, its commands are run, their output is compared."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from test.acceptance.test_dead_letters import FENCE, as_pattern
from test.support.guarded_nats import ROOT, environment
from test.support.ports import free_port

PAGE = ROOT / "docs" / "models.md"
# The port of the page.
PORT = "8000"
# Seconds until what a command shows has to be as the page says: hosts start and end meanwhile.
PATIENCE_S = 60.0


def steps() -> Iterator[tuple[str, str, str]]:
    """Yield (language, first line, rest) of the blocks; of a `console` one for each command."""
    for kind, content in FENCE.findall(PAGE.read_text()):
        if kind != "console":
            yield (kind, *content.split("\n", 1))
            continue
        for session in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            yield (kind, *session.split("\n", 1))


class Place:
    """The reader's folder and shells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.environment = environment(PYTHONPATH=os.pathsep.join((str(ROOT), str(folder))))
        self.serving: subprocess.Popen[bytes] | None = None
        self.log = folder / "serve.log"

    def write(self, name: str, content: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(content.replace(PORT, self.port))

    def serve(self, *options: str) -> None:
        command = [sys.executable, "-m", "runtime", "model", "serve", "models.yml", *options]
        with self.log.open("wb") as log:
            self.serving = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, command: str) -> str:
        program, *arguments = shlex.split(command)
        start = [sys.executable] if program == "python" else [sys.executable, "-m", "runtime"]
        done = subprocess.run(
            [*start, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def run_until_it_shows(self, command: str, expected: str) -> None:
        """Run a command, again while it only looks and hosts are still at work."""
        deadline_s = time.monotonic() + PATIENCE_S
        pattern = as_pattern(expected)
        while not re.fullmatch(pattern, output := self.run(command)):
            looks = " ls" in command or " logs" in command
            assert looks and time.monotonic() < deadline_s, (
                f"$ {command}\n{output}\nis not as the page says:\n{expected}"
            )

    def stop(self) -> int:
        assert self.serving is not None
        self.serving.send_signal(signal.SIGINT)
        return self.serving.wait(PATIENCE_S)


@pytest.fixture
def place(tmp_path: Path, nats_server_binary: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.serving is not None:
        place.serving.kill()
        place.serving.wait()
        print(f"krt model serve:\n{place.log.read_text()}")


@pytest.mark.timeout(300)
def test_every_command_of_the_page_does_what_the_page_shows(place: Place) -> None:
    commands = []

    for kind, head, rest in steps():
        if kind != "console":
            place.write(head.removeprefix("# "), rest)
            continue
        if place.serving is None:
            place.serve("--port", place.port)
        place.run_until_it_shows(head, rest)
        commands.append(" ".join(head.split()[1:3]))

    assert commands == [
        "model ls", "coordinator.py", "model ls", "model logs", "model apply", "model ls", "model stop",
    ]  # fmt: skip
    assert place.stop() == 0
