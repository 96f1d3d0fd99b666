"""Secrets of nodes and credentials for NATS are in no log, no process list, no compose file and no status."""

import asyncio
import json
from pathlib import Path

import pytest

from test.support.guarded_nats import guarded_server, krt
from test.support.run_process import RunProcess

SECRET = "open-sesame-4711"
WORKFLOW = """
name: flow
nodes:
  - {name: vault, handler: vault.py, secrets: [API_KEY], retry: {attempts: 1}}
"""
HANDLER = """
import os

async def handler(ctx, data: dict):
    if data.get("fail"):
        raise ValueError("the key does not fit")
    return {"length": len(os.environ["API_KEY"])}
"""


def command_lines() -> str:
    """Return the command lines of all processes of this machine, one below the other."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has just ended
            continue
    return "\n".join(lines)


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW)
    (folder / "vault.py").write_text(HANDLER)
    return folder


@pytest.mark.timeout(120)
async def test_no_secret_and_no_password_is_shown_anywhere(
    workflow: Path, tmp_path: Path, nats_server_binary: Path
) -> None:
    server, credentials = guarded_server(tmp_path, nats_server_binary, [workflow])
    await server.start()
    client = str(credentials / "local_dev_flow" / "krt.client")
    variables = {"KRT_NATS_CREDENTIALS": str(credentials), "API_KEY": SECRET, "KRT_LOG_LEVEL": "DEBUG"}
    run = await RunProcess.start(tmp_path, str(workflow), "--nats", server.url, **variables)
    shown = {}
    try:
        await run.wait_for("ready in")
        sent = await asyncio.to_thread(krt, tmp_path, "send", "flow", "{}", KRT_NATS_CREDENTIALS=client)
        failed = await asyncio.to_thread(krt, tmp_path, "send", "flow", '{"fail": true}', KRT_NATS_CREDENTIALS=client)
        status = await asyncio.to_thread(krt, tmp_path, "status", "--json", KRT_NATS_CREDENTIALS=client)
        shown["command lines"] = command_lines()
        shown["run files"] = "".join(file.read_text() for file in (tmp_path / ".krt").glob("*.json"))
    finally:
        await run.stop()
        await server.stop()
    compose = await asyncio.to_thread(krt, tmp_path, "compose", str(workflow), API_KEY=SECRET)
    shown |= {"log": "\n".join(run.lines), "server log": server.log_tail(lines=2_000), "compose": compose.stdout}
    shown |= {name: done.stdout + done.stderr for name, done in {"send": failed, "status": status}.items()}

    assert json.loads(sent.stdout) == {"length": len(SECRET)}, sent.stderr
    assert failed.returncode != 0 and status.returncode == 0 and "${API_KEY" in compose.stdout
    passwords = [file.read_text().strip() for file in credentials.rglob("password")]
    assert len(passwords) == 6  # manager, writer, node, driver host, client, operator
    leaks = [(what, secret) for what, text in shown.items() for secret in (SECRET, *passwords) if secret in text]
    assert leaks == []
