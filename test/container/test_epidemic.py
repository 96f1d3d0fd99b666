"""workflows/epidemic with its model as an image: the package is checked, and a sweep runs it in containers."""

import json
import shutil
from pathlib import Path

import pytest

from test.acceptance.test_examples import ROOT, krt, running
from test.container.conftest import BASE
from test.container.podman import Podman

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("nats_server_binary")]

EXAMPLE = ROOT / "workflows" / "epidemic"
IMAGE = "localhost/krt-sir:1.0.0"
COMMAND = "    backend: command\n    command: [python, sir/connector.py]\n"
AS_IMAGE = f"    backend: docker\n    image: {IMAGE}\n"


@pytest.fixture
def folder(podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example with the image in the place of the command; everything that is started finds this podman."""
    for name, value in podman.environment.items():
        monkeypatch.setenv(name, value)
    podman.build(str(EXAMPLE / "sir/Dockerfile"), IMAGE, context=EXAMPLE / "sir", arguments={"BASE_IMAGE": BASE})
    folder = tmp_path / "epidemic"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".krt", "__pycache__"))
    text = (folder / "workflow.yaml").read_text()
    assert COMMAND in text
    (folder / "workflow.yaml").write_text(text.replace(COMMAND, AS_IMAGE))
    return folder


def test_the_image_passes_the_test_of_connectors_and_runs_a_sweep(folder: Path, tmp_path: Path, podman: Podman) -> None:
    checked = krt(folder, "connector", "test", "sir", "--backend", "docker", timeout_s=120)
    with running(tmp_path, folder):
        sent = krt(tmp_path, "send", "epidemic", f"@{folder / 'sample.json'}", "--timeout", "110s", timeout_s=120)
        listed = krt(tmp_path, "runs", "ls", "--json")

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [line.split()[0] for line in checked.stdout.splitlines()] == ["ok"] * 7
    assert json.loads(sent.stdout) == json.loads((EXAMPLE / "expected.json").read_text()), sent.stderr
    records = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(record["image"], record["state"]) for record in records] == [(IMAGE, "complete")] * 5
    assert {record["imageDigest"].partition(":")[0] for record in records} == {"sha256"}
    assert {record["versions"]["connector"] for record in records} == {"1.0.0"}
    assert podman.run("ps", "--all", "--quiet") == ""
