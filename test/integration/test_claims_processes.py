"""Payloads of 20 MB through `krt run` under the permissions that it prints: by HTTP, by gRPC, into a dead letter."""

import asyncio
import json
import random
from pathlib import Path

import httpx
import pytest

from test.support.guarded_nats import guarded_server, krt
from test.support.ports import free_port
from test.support.rpc import RpcClient, write_proto
from test.support.run_process import RunProcess

MIB = 1024 * 1024
WORKFLOW = """
name: scans
stream: {{max_bytes: 500Mi}}
nodes:
  - {{name: cut, handler: cut.py}}
  - {{name: tell, handler: tell.py, retry: {{attempts: 1}}}}
drivers:
  web: {{class: http, ports: {{http: {http}}}, parameters: {{max_body: 64Mi}}}}
  rpc: {{class: grpc, ports: {{grpc: {grpc}}}, proto: echo.proto, args: {{payload: json, max_message: 64Mi}}}}
"""
CUT = """
async def handler(ctx, data: dict):
    return data
"""
TELL = """
from pathlib import Path

async def handler(ctx, data: dict):
    if Path(__file__).with_name("refuse").exists():
        raise ValueError("refused")
    return data
"""
# Bytes of the text that is sent: 10 MB when gzipped, and with its JSON a little more.
TEXT = random.Random(0).randbytes(10 * MIB).hex()
PATIENCE_S = 60.0


def write_workflow(folder: Path, http: int, grpc: int) -> Path:
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW.format(http=http, grpc=grpc))
    (folder / "cut.py").write_text(CUT)
    (folder / "tell.py").write_text(TELL)
    write_proto(folder)
    return folder


@pytest.mark.timeout(180)
async def test_twenty_megabytes_by_http_grpc_and_into_a_dead_letter(tmp_path: Path, nats_server_binary: Path) -> None:
    http, grpc = free_port(), free_port()
    folder = write_workflow(tmp_path / "scans", http, grpc)
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, [folder])
    client, operator = (str(credentials / "local_dev_scans" / user) for user in ("krt.client", "krt.operator"))
    (tmp_path / "request.json").write_text(json.dumps({"text": TEXT}))
    await guarded.start()
    run = await RunProcess.start(tmp_path, str(folder), "--nats", guarded.url, KRT_NATS_CREDENTIALS=str(credentials))
    try:
        await run.wait_for("ready in")
        async with httpx.AsyncClient(timeout=PATIENCE_S) as web:
            posted = await web.post(f"http://127.0.0.1:{http}/predict", json={"text": TEXT})
        async with RpcClient(folder / "echo.proto", grpc) as rpc:
            said = await rpc.call("Say", text=TEXT, timeout=PATIENCE_S)
        sent = await asyncio.to_thread(krt, tmp_path, "send", "scans", "@request.json", KRT_NATS_CREDENTIALS=client)
        (folder / "refuse").touch()
        refused = await asyncio.to_thread(krt, tmp_path, "send", "scans", "@request.json", KRT_NATS_CREDENTIALS=client)
        shown = await asyncio.to_thread(krt, tmp_path, "dlq", "show", "1", "--json", KRT_NATS_CREDENTIALS=operator)
        (folder / "refuse").unlink()
        redriven = await asyncio.to_thread(krt, tmp_path, "dlq", "redrive", "1", KRT_NATS_CREDENTIALS=operator)
        seen = await asyncio.to_thread(krt, tmp_path, "peek", "cut", "--last", "1", KRT_NATS_CREDENTIALS=operator)
    finally:
        code = await run.stop()
        log = guarded.log_tail(lines=2_000)
        await guarded.stop()

    assert posted.json() == {"text": TEXT}
    assert said.text == TEXT
    assert json.loads(sent.stdout) == {"text": TEXT}, sent.stderr[-2000:]
    assert refused.returncode == 1 and "refused" in refused.stderr
    assert json.loads(shown.stdout)["value"] == {"text": TEXT}, shown.stderr[-2000:]
    assert redriven.returncode == 0, redriven.stderr[-2000:]
    assert "payload of 20.0 MiB" in seen.stdout, seen.stdout[-2000:] + seen.stderr[-2000:]
    assert code == 0
    assert "Violation" not in log
    assert [line for line in run.lines if "forbids" in line] == []
