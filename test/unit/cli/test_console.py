"""The lines of a run: aligned names, and an output that goes away."""

import io
import os

from runtime.cli.console import Console


def test_lines_of_processes_stand_behind_aligned_names() -> None:
    stream = io.StringIO()
    console = Console(on_closed=lambda: None, stream=stream)
    console.name_processes(["score/1", "clean"])

    console.line("clean", "started")
    console.say("ready")

    assert stream.getvalue() == "clean   | started\nready\n"


def test_an_output_that_goes_away_is_told_once_and_nothing_is_raised() -> None:
    reads, writes = os.pipe()
    told: list[str] = []
    with os.fdopen(writes, "w") as stream:
        console = Console(on_closed=lambda: told.append("closed"), stream=stream)
        os.close(reads)

        console.say("one")
        console.line("clean", "two")

    assert told == ["closed"]
