"""What a command imports: people wait for it."""

import subprocess
import sys

import pytest

from runtime.cli import exits
from runtime.cli.commands import COMMANDS

# Packages that take longer to import than most commands take for what they do.
HEAVY = {"aiohttp", "google.protobuf", "motor", "numpy", "pydantic", "rich"}
# Runs the command, and tells what has been imported by then and for talking to a server.
PROGRAM = """
import sys
from runtime.cli.main import main
try:
    main()
finally:
    import runtime.bus.nats, runtime.cli.runs_text
    print(*sorted(sys.modules), file=sys.stderr)
"""


def imported_by(*arguments: str, code: int) -> set[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == code, ran.stderr
    return set(ran.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("limit", [[], ["--limit", "0"]], ids=["default", "all"])
def test_a_list_of_runs_imports_nothing_that_takes_long(limit: list[str]) -> None:
    """It ends before it connects: --nats and --stream have to stand together."""
    imported = imported_by("runs", "ls", *limit, "--nats", "nats://here", code=exits.CONFIG)

    assert "runtime.batch.summaries" in imported
    assert imported & HEAVY == set()


def test_a_command_imports_no_other_one() -> None:
    imported = imported_by("runs", "ls", "--nats", "nats://here", code=exits.CONFIG)

    others = {f"runtime.cli.{module}" for module in COMMANDS.values()} - {"runtime.cli.runs"}
    assert imported & others == set()
