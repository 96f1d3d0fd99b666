"""The commands of `krt`: how each is found, and how errors become exit codes, and only there."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from runtime import errors
from runtime.cli import commands, exits


def failing(error: Exception) -> Callable[[], None]:
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.ConfigError("KRT_NATS_URL is missing"), exits.CONFIG, "KRT_NATS_URL is missing\n"),
        (errors.BusClosedError("the server is gone"), exits.FAILED, "krt: the server is gone\n"),
    ],
)
def test_an_error_of_the_runtime_is_one_line_and_an_exit_code(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "app", failing(error))

    with pytest.raises(SystemExit) as ended:
        commands.run()

    assert ended.value.code == code
    assert capsys.readouterr() == ("", words)


def test_any_other_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "app", failing(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        commands.run()


def test_the_help_lists_every_command_that_is_not_a_process() -> None:
    done = CliRunner().invoke(commands.app, ["--help"])

    listed = [line.split()[0] for line in done.output.partition("Commands:")[2].splitlines() if line.strip()]
    assert done.exit_code == exits.OK
    assert listed == [name for name, module in commands.COMMANDS.items() if module != "processes"]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_command_is_found_in_its_module(name: str) -> None:
    done = CliRunner().invoke(commands.app, [name, "--help"])

    assert (done.exit_code, f" {name} " in done.output.splitlines()[0]) == (exits.OK, True)


def test_a_command_that_there_is_not_is_answered_with_one_that_may_be_meant() -> None:
    done = CliRunner().invoke(commands.app, ["rusn"])

    assert (done.exit_code, "Did you mean 'run', 'runs'?" in done.output) == (exits.CONFIG, True)
