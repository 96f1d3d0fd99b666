"""`krt convert`, and the commands that take a folder, on a krt.yml."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from runtime.cli import exits
from runtime.cli.commands import app
from runtime.errors import ConfigError, WorkflowError
from runtime.spec.load import load

MANIFEST = """
version: mail-v1
description: Sorts mail
entrypoint: {proto: public_input.proto, image: konstellation/kre-entrypoint:latest}
config: {variables: [API_TOKEN]}
nodes:
  - {name: etl, image: my/etl:1, src: src/etl.py, gpu: true, memory: 2Gi}
  - {name: fit, image: konstellation/kre-py:latest, src: src/fit.py}
workflows:
  - {name: sort, entrypoint: Sort, sequential: [etl]}
  - {name: train, entrypoint: Train, sequential: [etl, fit]}
"""
PICK = ["--workflow", "train"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "mail"
    (place / "src").mkdir(parents=True)
    for name in ("etl", "fit"):
        (place / "src" / f"{name}.py").write_text("def handler(ctx, data):\n    return data\n")
    (place / "krt.yml").write_text(MANIFEST)
    monkeypatch.chdir(tmp_path)
    return place


def test_the_picked_workflow_is_printed_and_its_warnings_stand_apart(folder: Path) -> None:
    result = CliRunner().invoke(app, ["convert", "mail", *PICK])

    assert result.exit_code == exits.OK
    assert '"memory"' in result.stderr
    assert yaml.safe_load(result.stdout) == {
        "name": "train",
        "version": "mail-v1",
        "description": "Sorts mail",
        "defaults": {"concurrency": 1, "timeout": "none", "retry": {"attempts": 1}, "secrets": ["API_TOKEN"]},
        "nodes": [
            {"name": "etl", "handler": "src/etl.py", "resources": {"gpu": 1}, "image": "my/etl:1"},
            {"name": "fit", "handler": "src/fit.py"},
        ],
        "drivers": {
            "grpc": {
                "class": "grpc",
                "ports": {"grpc": 9000},
                "proto": "public_input.proto",
                "services": {"Entrypoint": {"Train": "train"}},
            }
        },
    }


def test_the_written_file_takes_the_manifest_s_place(folder: Path) -> None:
    meant = load(folder, workflow="train")

    result = CliRunner().invoke(app, ["convert", "mail", *PICK, "--out", "mail/workflow.yaml"])

    written = load(folder)
    assert (result.exit_code, result.stdout) == (exits.OK, "")
    assert written.path == folder / "workflow.yaml"
    assert written.model_copy(update={"path": meant.path}) == meant


def test_nothing_is_replaced(folder: Path) -> None:
    (folder / "workflow.yaml").write_text("mine")

    result = CliRunner().invoke(app, ["convert", "mail/krt.yml", *PICK, "--out", "mail/workflow.yaml"])

    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "mail/workflow.yaml exists already; choose another name, or remove it"
    assert (folder / "workflow.yaml").read_text() == "mine"


def test_a_file_away_from_the_handlers_is_refused(folder: Path) -> None:
    result = CliRunner().invoke(app, ["convert", "mail", *PICK, "--out", "workflow.yaml"])

    assert "is not beside the manifest, where its handlers are; write it into mail" in str(result.exception)
    assert not Path("workflow.yaml").exists()


def test_a_workflow_file_needs_no_conversion(folder: Path) -> None:
    (folder / "workflow.yaml").write_text("name: hello\nnodes: [{name: etl, handler: src/etl.py}]\n")

    result = CliRunner().invoke(app, ["convert", "mail"])

    assert str(result.exception) == "mail/workflow.yaml is a workflow file already; name a krt.yml"


@pytest.mark.parametrize("command", ["convert", "compose", "run"])
def test_one_of_several_workflows_has_to_be_picked(folder: Path, command: str) -> None:
    result = CliRunner().invoke(app, [command, "mail"])

    assert isinstance(result.exception, WorkflowError)
    assert str(result.exception).endswith("pick one with --workflow: sort or train [which-workflow]")


def test_a_check_looks_at_every_workflow_and_says_once_what_they_share(folder: Path) -> None:
    result = CliRunner().invoke(app, ["check", "mail", "--no-import"])

    warning, last = result.output.splitlines()
    assert '"memory"' in warning
    assert last == "workflow sort: 1 node, workflow train: 2 nodes, ok, 1 warning"


def test_a_check_of_one_workflow_leaves_out_the_problems_of_the_others(folder: Path) -> None:
    (folder / "src" / "fit.py").unlink()

    every = CliRunner().invoke(app, ["check", "mail", "--no-import"])
    one = CliRunner().invoke(app, ["check", "mail", "--no-import", "--workflow", "sort"])

    assert (every.exit_code, one.exit_code) == (exits.CONFIG, exits.OK)
    assert every.output.splitlines()[-1] == "1 problem, 1 warning"


def test_json_of_several_workflows_is_a_list(folder: Path) -> None:
    result = CliRunner().invoke(app, ["check", "mail", "--no-import", "--json"])

    assert [found["workflow"] for found in json.loads(result.output)] == ["sort", "train"]


def test_a_compose_file_is_made_of_a_manifest(folder: Path) -> None:
    result = CliRunner().invoke(app, ["compose", "mail", *PICK])

    services = yaml.safe_load(result.stdout)["services"]
    assert services["fit"]["environment"]["KRT_NATS_STREAM"] == "local_mail-v1_train"
    assert services["fit"]["environment"]["API_TOKEN"] == "${API_TOKEN:?a secret of fit}"
