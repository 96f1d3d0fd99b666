"""Values of options that are taken as they are, and those that typer has to look at."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from runtime.cli.plain_values import spare_pydantic


class Level(StrEnum):
    LOW = "low"


def command(
    name: str,
    count: Annotated[int, typer.Option("--count", min=0, max=20)] = 7,
    ratio: Annotated[float, typer.Option("--ratio")] = 0.5,
    level: Annotated[Level, typer.Option("--level")] = Level.LOW,
    folder: Annotated[Path | None, typer.Option("--folder")] = None,
    header: Annotated[list[str] | None, typer.Option("--header")] = None,
) -> None:
    typer.echo(repr((name, count, ratio, level, folder, header or [])))


def app() -> typer.Typer:
    made = typer.Typer(add_completion=False, rich_markup_mode=None)
    made.command()(command)
    return made


def printed(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app(), arguments)
    return done.exit_code, done.output


EVERY = [
    ["plain"],
    ["07", "--count", "07"],
    ["", "--count", "0"],
    ["a", "--count", "20", "--ratio", "2", "--level", "low", "--folder", ".", "--header", "a", "--header", "b"],
    ["a", "--count", "21"],
    ["a", "--count", "-1"],
    ["a", "--count", "x"],
    ["a", "--count", ""],
    ["a", "--count", "٣"],
    ["a", "--count", " 3 "],
    ["a", "--count", "1.0"],
    ["a", "--level", "high"],
    [],
]


@pytest.fixture
def as_typer_has_it(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What typer does by itself; afterwards its methods are as before the test."""
    from typer.core import TyperArgument, TyperOption

    for kind in (TyperOption, TyperArgument):
        replaced = vars(kind).get("get_runtime_param")
        if replaced is not None:
            monkeypatch.delattr(kind, "get_runtime_param")
    return [printed(*arguments) for arguments in EVERY]


def test_values_and_errors_are_those_of_typer(as_typer_has_it: list[tuple[int, str]]) -> None:
    spare_pydantic()

    assert [printed(*arguments) for arguments in EVERY] == as_typer_has_it
    assert [code for code, _ in as_typer_has_it][:4] == [0, 0, 0, 0]
