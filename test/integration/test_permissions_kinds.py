"""Nodes that call algorithms and models, under the permissions that `krt permissions` prints, on a real nats-server."""

import asyncio
import json
from pathlib import Path

import pytest

from test.support.guarded_nats import guarded_server, krt
from test.support.run_process import RunProcess

WORKFLOW = """
name: flow
nodes:
  - {name: work, kind: dispatch, wait_for_runner: 1s}
  - {name: players, kind: models, cluster: bird-game, base_class: game.Player, calls: [{method: tick, args: [payload]}],
     aggregate: voting.py:vote}
algorithms: {texts: {adapter: texts}}
"""
TEXTS = "def run_repeat(text: str, times: int) -> str:\n    return text * times\n"
VOTING = "def vote(results, data):\n    return {'models': len(results), 'length': len(data['result'])}\n"


@pytest.mark.timeout(120)
async def test_a_workflow_of_other_kinds_runs_under_its_permissions(tmp_path: Path, nats_server_binary: Path) -> None:
    flow = tmp_path / "flow"
    (flow / "texts").mkdir(parents=True)
    (flow / "workflow.yaml").write_text(WORKFLOW)
    (flow / "texts" / "runner_adapter.py").write_text(TEXTS)
    (flow / "voting.py").write_text(VOTING)
    server, credentials = guarded_server(tmp_path, nats_server_binary, [flow])
    client = credentials / "local_dev_flow" / "krt.client"
    await server.start()
    run = await RunProcess.start(tmp_path, str(flow), "--nats", server.url, KRT_NATS_CREDENTIALS=str(credentials))

    async def send(algorithm: str, **payload: object) -> str:
        job = json.dumps({"algorithm": algorithm, "payload": payload})
        sent = await asyncio.to_thread(krt, tmp_path, "send", "flow", job, KRT_NATS_CREDENTIALS=str(client))
        return sent.stdout + sent.stderr

    try:
        await run.wait_for("ready in")
        answer = await send("repeat", text="bird", times=3)
        unknown = await send("count", text="bird")
        code = await run.stop()
    finally:
        print("\n".join([*run.lines, "log of the nats-server:", log := server.log_tail(lines=2_000)]))
        await server.stop()

    assert json.loads(answer) == {"models": 0, "length": 12}
    assert "no algorithm" in unknown
    assert code == 0
    assert [line for line in log.splitlines() if "Violation" in line] == []
    assert [line for line in run.lines if "forbids" in line] == []
