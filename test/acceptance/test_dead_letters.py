"""The walk through docs/dead-letters.md: its files are written, its commands are run, their output is compared."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cli import exits
from test.acceptance.test_run import Run, krt

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
# Seconds until what a command shows has to be as the page says: nodes and reloads work meanwhile.
PATIENCE_S = 20.0


def steps() -> Iterator[tuple[str, str]]:
    """Yield the files and the commands of the page in their order: (path, content), (command, expected output)."""
    for kind, content in FENCE.findall(PAGE.read_text()):
        if kind != "console":
            first, _, rest = content.partition("\n")
            yield first.removeprefix("# "), rest
            continue
        for session in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            command, _, expected = session.partition("\n")
            yield command, expected


def as_pattern(expected: str) -> str:
    """Return what the output has to match: `…` is any text, or any lines, and how far columns stand apart is free."""
    return "".join(r"(?:.*\n)*?" if line == "…" else _line_pattern(line) for line in expected.splitlines())


def _line_pattern(line: str) -> str:
    escaped = ".*".join(map(re.escape, line.split("…")))
    return re.sub(r"(?:\\ )+", " +", escaped) + r" *\n"


@pytest.fixture
def run(tmp_path: Path, nats_server_binary: Path) -> Iterator[list[Run]]:
    """Hold the run, once it is started."""
    runs: list[Run] = []
    yield runs
    for each in runs:
        each.end()


def test_every_command_of_the_page_does_what_the_page_shows(run: list[Run], tmp_path: Path) -> None:
    request_id = "REQUEST_ID"
    done = []

    for head, content in steps():
        if not head.startswith("krt "):
            (tmp_path / head).parent.mkdir(exist_ok=True)
            (tmp_path / head).write_text(content)
            continue
        if not run:
            run.append(Run(tmp_path, "shop", "--reload"))
            run[0].wait_for("^ready in ")
        output = run_until_it_matches(tmp_path, head.replace("REQUEST_ID", request_id), content)
        if told := re.search(r"\(request (\w+)\)", output):
            request_id = told[1]
        done.append(head.split()[1])

    assert done == ["send", "dlq", "dlq", "repro", "repro", "dlq", "peek", "trace"]
    assert run[0].stop() == exits.OK


def run_until_it_matches(place: Path, command: str, expected: str) -> str:
    """Run a command, again while it only reads and nodes are still at work, and return its output."""
    deadline_s = time.monotonic() + PATIENCE_S
    pattern = as_pattern(expected)
    reads = command.split()[1] in ("peek", "trace")
    while True:
        done = krt(place, *shlex.split(command)[1:])
        output = done.stderr + done.stdout if "repro" not in command else told(done.stderr, done.stdout)
        if re.fullmatch(pattern, output):
            return output
        assert reads and time.monotonic() < deadline_s, f"$ {command}\n{output}\nis not as the page says:\n{expected}"


def told(errors: str, output: str) -> str:
    """Return both streams as a terminal shows them: the first line of the errors stands before the output."""
    first, _, rest = errors.partition("\n")
    return f"{first}\n{output}{rest}"
