"""The command `krt`: errors become exit codes, and only there."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from runtime import errors
from runtime.cli import exits, main
from runtime.version import __version__


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
    monkeypatch.setattr(main, "app", failing(error))

    with pytest.raises(SystemExit) as ended:
        main.main()

    assert ended.value.code == code
    assert capsys.readouterr() == ("", words)


def test_any_other_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "app", failing(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        main.main()


def test_python_m_runtime_is_krt() -> None:
    done = subprocess.run([sys.executable, "-m", "runtime", "--version"], capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout, done.stderr) == (exits.OK, f"krt {__version__}\n", "")


def test_the_help_lists_every_command_that_is_not_a_process() -> None:
    done = CliRunner().invoke(main.app, ["--help"])

    listed = [line.split()[0] for line in done.output.partition("Commands:")[2].splitlines() if line.strip()]
    assert done.exit_code == exits.OK
    assert listed == [name for name, module in main.COMMANDS.items() if module != "processes"]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_a_command_is_found_in_its_module(name: str) -> None:
    done = CliRunner().invoke(main.app, [name, "--help"])

    assert (done.exit_code, f" {name} " in done.output.splitlines()[0]) == (exits.OK, True)


def test_a_command_that_there_is_not_is_answered_with_one_that_may_be_meant() -> None:
    done = CliRunner().invoke(main.app, ["rusn"])

    assert (done.exit_code, "Did you mean 'run', 'runs'?" in done.output) == (exits.CONFIG, True)
