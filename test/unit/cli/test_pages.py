"""The pages for users name commands of `krt` and their options: they have to exist."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from runtime.cli.commands import app

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("workflows/*/README.md")])

# `krt …` in backticks, or at the beginning of a line of a shell; a comment, a pipe or another command ends it.
_NAMED = re.compile(r"(?:`|^(?:\$ |make \S+ && )?)krt ([^`\n|#;&]+)", re.MULTILINE)


def unknown_in(named: str) -> list[str]:
    """Return the command, or the options, that `krt` does not have."""
    words, command = [word for word in named.split() if word != "…"], get_command(app)
    known = options_of(command)
    while words and hasattr(command, "get_command"):
        if words[0] in known:  # one of `krt` itself, with its value
            words = words[2:]
            continue
        inner = command.get_command(None, words.pop(0))
        if inner is None:
            return [named]
        command = inner
    known |= options_of(command)
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


def options_of(command: Any) -> set[str]:
    return {"--help"} | {name for option in command.params for name in [*option.opts, *option.secondary_opts]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    named = [found.strip() for found in _NAMED.findall(page.read_text())]

    assert {each: unknown for each in named if (unknown := unknown_in(each))} == {}
