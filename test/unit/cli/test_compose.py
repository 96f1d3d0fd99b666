"""`krt compose`: what it prints, and how it exits."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from runtime.cli.commands import app
from runtime.errors import ConfigError, WorkflowError

WORKFLOW = "name: hello\nnodes: [{name: greet, handler: handler.py}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "flows" / "hello"
    place.mkdir(parents=True)
    (place / "handler.py").write_text("def handler(ctx, data):\n    return data\n")
    (place / "workflow.yaml").write_text(WORKFLOW)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.parametrize(
    ("current", "argument", "source"),
    [(".", "flows/hello", "./flows/hello"), ("flows", "hello/workflow.yaml", "./hello"), ("flows/hello", ".", ".")],
)
def test_the_folder_is_mounted_by_its_path_from_the_current_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, current: str, argument: str, source: str
) -> None:
    monkeypatch.chdir(current)

    result = CliRunner().invoke(app, ["compose", argument])

    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["services"]["greet"]["volumes"][0]["source"] == source


def test_the_image_and_the_runtime_are_those_of_the_options(folder: Path) -> None:
    result = CliRunner().invoke(app, ["compose", str(folder), "--image", "flows:2", "--runtime", "prod"])

    greet = yaml.safe_load(result.stdout)["services"]["greet"]
    assert greet["image"] == "flows:2"
    assert greet["environment"]["KRT_NATS_STREAM"] == "prod_dev_hello"


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ([], ("krt", "krt:cuda")),
        (["--image", "flows:2"], ("flows:2", "flows:2")),
        (["--image", "flows:2", "--gpu-image", "flows:2-cuda"], ("flows:2", "flows:2-cuda")),
        (["--gpus", "none"], ("krt", "krt")),
    ],
)
def test_processes_with_gpus_have_the_image_for_them(folder: Path, options: list[str], images: tuple[str, str]) -> None:
    ocr = ", {name: ocr, handler: handler.py, resources: {gpu: 1}}]"
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("]", ocr))

    result = CliRunner().invoke(app, ["compose", str(folder), *options])

    services = yaml.safe_load(result.stdout)["services"]
    assert (services["greet"]["image"], services["ocr"]["image"]) == images


def test_warnings_do_not_get_into_the_file(folder: Path) -> None:
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("handler.py}", "handler.py, retry: {attempts: 50}}"))

    result = CliRunner().invoke(app, ["compose", str(folder)])

    assert "attempts" in result.stderr
    assert yaml.safe_load(result.stdout)["name"] == "hello"


def test_a_faulty_workflow_is_refused_with_its_problems(folder: Path) -> None:
    (folder / "workflow.yaml").write_text("name: Hello\nnodes: []\n")

    result = CliRunner().invoke(app, ["compose", str(folder)])

    assert isinstance(result.exception, WorkflowError) and isinstance(result.exception, ConfigError)
    assert result.stdout == ""
