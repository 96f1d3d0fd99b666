"""Connectors: what they read and write, and the exit code of each ending."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.batch import Connector, Folders, UnsupportedInput
from runtime.batch import connector as module

INPUT_SCHEMA = {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1}}, "required": ["days"]}
OUTPUT_SCHEMA = {"type": "object", "properties": {"curve": {"type": "array", "maxItems": 3}}, "required": ["curve"]}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "input", tmp_path / "output", tmp_path / "log")
    for folder in (made.input, made.output, made.log):
        folder.mkdir()
    return made


@pytest.fixture
def connector(tmp_path: Path) -> Connector:
    for name, schema in (("in.json", INPUT_SCHEMA), ("out.json", OUTPUT_SCHEMA)):
        (tmp_path / name).write_text(json.dumps(schema))
    return Connector(
        "flood",
        input_schema=tmp_path / "in.json",
        output_schema=tmp_path / "out.json",
        model_version="2.4.0",
        connector_version="0.9.1",
    )


def give(folders: Folders, text: str) -> None:
    (folders.input / "inputFile.json").write_text(text)


def curve(config: dict[str, Any], _: Folders) -> dict[str, Any]:
    return {"curve": list(range(config["days"]))}


def test_the_output_holds_the_result_the_input_and_the_versions(connector: Connector, folders: Folders) -> None:
    give(folders, '{"days": 2}')

    code = connector.execute(curve, folders)

    assert code == 0
    assert [file.name for file in folders.output.iterdir()] == ["data.json"]
    assert json.loads((folders.output / "data.json").read_text()) == {
        "curve": [0, 1],
        "metadata": {"days": 2},
        "model": {"name": "flood", "modelVersion": "2.4.0", "connectorVersion": "0.9.1"},
    }


def test_versions_come_from_the_environment_where_none_are_given(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_VERSION", "3")
    monkeypatch.setenv("CONNECTOR_VERSION", "4")
    give(folders, '{"days": 1}')

    Connector("flood").execute(curve, folders)

    model = json.loads((folders.output / "data.json").read_text())["model"]
    assert model == {"name": "flood", "modelVersion": "3", "connectorVersion": "4"}


def test_an_unsupported_input_ends_with_10(
    connector: Connector, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: dict[str, Any], _: Folders) -> dict[str, Any]:
        raise UnsupportedInput(f"{config['days']} days are too many")

    give(folders, '{"days": 900}')

    code = connector.execute(refuse, folders)

    assert (code, capsys.readouterr().err) == (10, "unsupported input: 900 days are too many\n")
    assert list(folders.output.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"days": 0}', "invalid input: days: 0 is less than the minimum of 1"),
        ("{}", "invalid input: inputFile.json: 'days' is a required property"),
        ("[1]", "holds no JSON object"),
        ('{"days": ', "cannot be read"),
    ],
)
def test_an_invalid_input_ends_with_2_before_the_model_is_called(
    connector: Connector, folders: Folders, capsys: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    def never(config: dict[str, Any], _: Folders) -> dict[str, Any]:
        raise AssertionError(config)

    give(folders, text)

    code = connector.execute(never, folders)

    assert code == 2
    assert fault in capsys.readouterr().err


def test_no_input_file_ends_with_2(connector: Connector, folders: Folders) -> None:
    assert connector.execute(curve, folders) == 2


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        ({"curve": [1, 2, 3, 4]}, "invalid output: curve: [1, 2, 3, 4] is too long"),
        ({"curve": [float("nan")]}, "this is no JSON"),
        ({"curve": {1, 2}}, "Object of type set is not JSON serializable"),
        ([1, 2], "run() has returned list, no dict"),
    ],
)
def test_an_invalid_output_ends_with_3_and_is_not_written(
    connector: Connector, folders: Folders, capsys: pytest.CaptureFixture[str], result: Any, fault: str
) -> None:
    give(folders, '{"days": 1}')

    code = connector.execute(lambda config, folders: result, folders)

    assert code == 3
    assert fault in capsys.readouterr().err
    assert list(folders.output.iterdir()) == []


def test_a_model_that_raises_ends_with_1_and_its_traceback(
    connector: Connector, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: dict[str, Any], _: Folders) -> dict[str, Any]:
        return {"curve": [1 / (config["days"] - 1)]}

    give(folders, '{"days": 1}')

    code = connector.execute(broken, folders)

    assert code == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_of_two_equal_keys_the_last_one_counts(connector: Connector, folders: Folders) -> None:
    give(folders, '{"days": 900, "days": 1}')

    connector.execute(curve, folders)

    assert json.loads((folders.output / "data.json").read_text())["metadata"] == {"days": 1}


def test_without_jsonschema_nothing_is_checked_and_it_says_so(
    connector: Connector, folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    give(folders, '{"days": 5}')

    code = connector.execute(curve, folders)

    assert code == 0
    assert capsys.readouterr().err.splitlines() == [
        "inputFile.json is not checked: jsonschema is not installed",
        "data.json is not checked: jsonschema is not installed",
    ]


def test_the_file_imports_nothing_but_the_standard_library() -> None:
    statements = list(ast.walk(ast.parse(Path(module.__file__).read_text())))
    imported = {alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names}
    imported |= {str(each.module) for each in statements if isinstance(each, ast.ImportFrom)}

    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} == {"jsonschema"}


def test_a_copy_runs_on_a_bare_python_in_the_folders_of_the_environment(tmp_path: Path, folders: Folders) -> None:
    shutil.copy(module.__file__, tmp_path / "krt_connector.py")
    program = tmp_path / "connector.py"
    program.write_text(
        "from krt_connector import Connector\n"
        "Connector('flood', model_version='1').main(lambda config, folders: {'log': str(folders.log)})\n"
    )
    give(folders, "{}")
    variables = {
        "MODEL_INPUT_DIR": str(folders.input),
        "MODEL_OUTPUT_DIR": str(folders.output),
        "PATH": os.environ["PATH"],
    }

    # -S: without the packages of this environment.
    done = subprocess.run([sys.executable, "-S", str(program)], env=variables, timeout=10)

    assert done.returncode == 0
    assert json.loads((folders.output / "data.json").read_text())["log"] == "/data/log"
