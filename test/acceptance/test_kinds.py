"""A workflow without handlers under `krt run`: a runner of algorithms, a dispatcher, and a coordinator of models."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.models.wire import HostState
from test.support.guarded_nats import environment
from test.support.model_host import hosted, write_model
from test.support.run_process import PATIENCE_S, RunProcess

WORKFLOW = """
name: flow
nodes:
  - {name: work, kind: dispatch, retry: {first: 100ms, max: 1s}}
  - name: players
    kind: models
    cluster: bird-game
    base_class: game.tracker.Tracker
    calls: [{method: tick, args: [payload]}, {method: echo, args: [payload.result]}]
    require: 1
algorithms:
  sums: {adapter: sums, isolation: process, timeout: 10s}
"""
SUMS = "def run_add(a: int, b: int) -> int:\n    return a + b\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    flow = tmp_path / "flow"
    (flow / "sums").mkdir(parents=True)
    (flow / "workflow.yaml").write_text(WORKFLOW)
    (flow / "sums" / "runner_adapter.py").write_text(SUMS)
    return flow


async def krt(place: Path, *arguments: str) -> tuple[int | None, str]:
    """Run a command in a folder; return its exit code and what it has said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime", *arguments,
        cwd=place, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    return process.returncode, said.decode()


async def send(place: Path, **arguments: int) -> dict[str, Any]:
    job = json.dumps({"algorithm": "add", "payload": arguments})
    code, said = await krt(place, "send", "flow", job)
    assert code == 0, said
    answer: dict[str, Any] = json.loads(said)
    return answer


def pid_of(place: Path, process: str) -> int:
    return int(json.loads((place / ".krt" / "processes.json").read_text())[process]["pid"])


@pytest.mark.timeout(120)
async def test_a_workflow_of_other_kinds_answers_and_survives_its_runner(
    nats_server: EmbeddedServer, tmp_path: Path, folder: Path
) -> None:
    async with AsyncExitStack() as stack:
        hosting = await NatsBus.connect([nats_server.url], name="host")
        stack.push_async_callback(hosting.close)
        looking = await NatsBus.connect([nats_server.url], name="test")
        stack.push_async_callback(looking.close)
        host = await stack.enter_async_context(hosted(hosting, looking, write_model(tmp_path)))
        await host.until_state(HostState.RUNNING)
        run = await RunProcess.start(tmp_path, str(folder), "--nats", nats_server.url)
        try:
            await run.wait_for("ready in")
            first = await send(tmp_path, a=1, b=2)
            os.kill(pid_of(tmp_path, "krt.algorithms.sums"), signal.SIGKILL)
            second = await send(tmp_path, a=3, b=4)
        finally:
            code = await run.stop()
            print("\n".join(run.lines))

    assert [first["m1"]["result"], second["m1"]["result"]] == [3, 7]
    assert code == 0


async def test_krt_check_knows_the_kinds(tmp_path: Path, folder: Path) -> None:
    assert await krt(tmp_path, "check", "flow") == (0, "workflow flow: 2 nodes, ok\n")


async def test_krt_check_imports_the_functions_of_a_models_node(tmp_path: Path, folder: Path) -> None:
    text = WORKFLOW.replace("    require: 1\n", "    aggregate: voting.py:vote\n")
    (folder / "workflow.yaml").write_text(text)
    (folder / "voting.py").write_text("def vote(results):\n    return results\n")

    code, said = await krt(tmp_path, "check", "flow")

    assert code == 2
    assert "expected vote(results, data): too many positional arguments" in said
    assert "workflow.yaml:10:16" in said
