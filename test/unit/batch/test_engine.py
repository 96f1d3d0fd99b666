"""Calls of a container engine, by a stand-in for its program."""

import asyncio
import os
from pathlib import Path

import pytest
import uvloop

from runtime.batch.engine import Engine


def test_an_engine_has_the_variables_of_the_process_on_the_loop_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\nprintf %s "$DOCKER_HOST"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/engine.sock")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        said = runner.run(Engine("docker", os.environ).call("ps"))

    assert said == b"unix:///run/engine.sock"
