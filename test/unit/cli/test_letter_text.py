"""The table of `krt dlq ls`."""

import io
from dataclasses import replace

from rich.console import Console

from runtime.cli.letter_text import letters_table
from runtime.inspection.letters import Letter
from test.support.letters import LETTER


def test_in_a_narrow_terminal_only_the_error_gives_way() -> None:
    letter = Letter(id=41, died_ns=0, body=b"", letter=replace(LETTER, error="ValueError: " + "wrong " * 30))
    console = Console(file=io.StringIO(), width=80)

    console.print(letters_table([letter], now_ns=3_000_000_000))

    assert isinstance(console.file, io.StringIO)
    heading, row = console.file.getvalue().splitlines()
    assert heading.split() == ["id", "node", "reason", "age", "attempts", "redrives", "error"]
    assert row.split()[:7] == ["41", "score", "failed", "3.0s", "1", "0", "ValueError:"]
    assert row.rstrip().endswith("…")
