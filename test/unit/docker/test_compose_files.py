"""The compose files of the repository: samples are what `krt compose` prints, and tests run on the same servers."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from runtime.cli.commands import app

ROOT = Path(__file__).parents[3]
SERVERS = ("nats", "mongo", "influx")


def services(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        ("docker", ["../workflows/digits", "--image", "krt-digits"]),
        (
            "workflows/algorithms",
            [".", "--mongo-uri", "sqlite:////data/documents", "--influx-uri", "sqlite:////data/points"],
        ),
    ],
)
def test_a_sample_is_what_krt_compose_prints(
    monkeypatch: pytest.MonkeyPatch, folder: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(ROOT / folder)

    result = CliRunner().invoke(app, ["compose", *arguments])

    assert (ROOT / folder / "compose.yaml").read_text() == result.stdout, "print it anew: make compose"


@pytest.mark.parametrize("server", SERVERS)
def test_tests_run_on_the_servers_that_workflows_are_deployed_with(server: str) -> None:
    deployed, tested = (services(file)[server] for file in ("docker/compose.yaml", "test/docker-compose.yaml"))

    assert tested["image"] == deployed["image"]
    assert tested["healthcheck"]["test"] == deployed["healthcheck"]["test"]


def test_servers_for_tests_listen_on_this_machine_only() -> None:
    published = [port for service in services("test/docker-compose.yaml").values() for port in service["ports"]]

    assert len(published) == len(SERVERS)
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
