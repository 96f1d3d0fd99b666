"""`krt kubernetes`: what it prints, and how it exits."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from runtime.cli.commands import app
from runtime.errors import ConfigError, WorkflowError

WORKFLOW = "name: hello\nnodes: [{name: greet, handler: handler.py, secrets: [API_TOKEN]}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handler.py").write_text("def handler(ctx, data):\n    return data\n")
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    return tmp_path


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["kubernetes", str(folder), "--image", "hello:1", *options])


def documents(result: Result) -> dict[str, Any]:
    """Return the objects by kind and name."""
    assert result.exit_code == 0, result.output
    found = yaml.safe_load_all(result.stdout)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found}


def test_standard_output_is_documents_alone_without_anchors(folder: Path) -> None:
    result = run(folder)

    assert result.stdout.startswith("---\napiVersion: ")
    assert "&id" not in result.stdout
    assert "Deployment hello-dev-greet" in documents(result)


def test_the_secret_that_is_needed_is_told_on_standard_error(folder: Path) -> None:
    result = run(folder, "-n", "lab")

    keys = ("API_TOKEN", "KRT_INFLUX_PASSWORD", "KRT_INFLUX_TOKEN")
    literals = " ".join(f"--from-literal={key}=…" for key in keys)
    assert result.stderr == f"needs: kubectl -n lab create secret generic hello-dev {literals}\n"


def test_options_reach_the_objects(folder: Path) -> None:
    found = documents(
        run(
            folder,
            *("--runtime", "prod", "--nats", "nats://nats.lab", "--nats-secret", "users", "--secret", "vault"),
            *("--mongo-uri", "mongodb://db.lab", "--influx-uri", "http://points.lab", "--namespace", "lab"),
        )
    )

    assert {name.partition(" ")[0] for name in found} == {"Deployment"}
    greet = found["Deployment hello-dev-greet"]
    assert greet["metadata"]["namespace"] == "lab"
    variables = {each["name"]: each for each in greet["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["KRT_NATS_STREAM"]["value"] == "prod_dev_hello"
    assert variables["KRT_NATS_SERVER"]["value"] == "nats://nats.lab"
    assert variables["KRT_MONGO_URI"]["value"] == "mongodb://db.lab"
    assert variables["API_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "vault"


def test_the_folder_is_a_config_map_on_request(folder: Path) -> None:
    without, with_files = (documents(run(folder, *options)) for options in ([], ["--files"]))

    (name,) = with_files.keys() - without.keys()
    assert name.startswith("ConfigMap hello-dev-files-")
    assert WORKFLOW in with_files[name]["data"].values()
    pod = with_files["Deployment hello-dev-greet"]["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mounts["/workflow"])
    assert volume["configMap"]["name"] == name.partition(" ")[2]


def test_an_image_has_to_be_named(folder: Path) -> None:
    result = CliRunner().invoke(app, ["kubernetes", str(folder)])

    assert result.exit_code == 2
    assert "--image" in result.stderr


def test_a_faulty_workflow_is_refused_with_its_problems(folder: Path) -> None:
    (folder / "workflow.yaml").write_text("name: Hello\nnodes: []\n")

    result = run(folder)

    assert isinstance(result.exception, WorkflowError) and isinstance(result.exception, ConfigError)
    assert result.stdout == ""
