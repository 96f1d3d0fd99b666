"""A node of kind batch under the permissions that `krt permissions` prints: its runs, records and artifacts."""

import asyncio
import json
import textwrap
from pathlib import Path

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.batch.records import RunRecords, decode
from runtime.bus.base import CoreMessage
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.environment import NatsSettings
from runtime.spec import names
from test.support.guarded_nats import guarded_server, krt
from test.support.run_process import RunProcess

STREAM = "local_dev_floods"
WORKFLOW = """
name: floods
nodes:
  - {name: flood, kind: batch, backend: command, command: [python, model.py], secrets: [SHARED_SECRET]}
"""
# Fails where it sees a secret of its worker's.
MODEL = """
import json, os, pathlib
assert "hush" not in json.dumps(dict(os.environ)), "it sees a secret"
told = json.loads(pathlib.Path(os.environ["MODEL_INPUT_DIR"], "inputFile.json").read_text())
pathlib.Path(os.environ["MODEL_OUTPUT_DIR"], "data.json").write_text(json.dumps({"twice": 2 * told["days"]}))
print("done")
"""


@pytest.mark.timeout(120)
async def test_runs_under_permissions_are_seen_and_fetched_by_clients(tmp_path: Path, nats_server_binary: Path) -> None:
    folder = tmp_path / "floods"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW)
    (folder / "model.py").write_text(textwrap.dedent(MODEL))
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, [folder])
    await guarded.start()
    client = credentials / STREAM / "krt.client"
    run = await RunProcess.start(
        tmp_path, str(folder), "--nats", guarded.url, KRT_NATS_CREDENTIALS=str(credentials), SHARED_SECRET="hush"
    )
    try:
        await run.wait_for("ready in")
        settings = NatsSettings(
            servers=(guarded.url,),
            request_timeout_s=5.0,
            credentials=client,
            inbox_prefix=names.inbox_prefix(STREAM, names.CLIENT),
        )
        bus = await NatsBus.of(settings, "looks on")
        events: list[CoreMessage] = []
        await bus.subscribe(names.run_subject(STREAM, "*", "event"), events.append)
        sent = await asyncio.to_thread(krt, tmp_path, "send", "floods", '{"days": 3}', KRT_NATS_CREDENTIALS=str(client))
        (listed,) = await RunRecords(bus, STREAM, SystemClock()).all()
        record = decode(listed.data)
        store = await open_store(record.locations.store, bus=bus, stream=STREAM)
        data = b"".join([piece async for piece in store.get(f"{record.locations.results}/public/output/data.json")])
        await bus.close()
    finally:
        code = await run.stop()
        await guarded.stop()

    assert json.loads(sent.stdout)["runs"][0]["status"] == "complete", sent.stderr
    assert json.loads(data) == {"twice": 6}
    assert [json.loads(event.data)["state"] for event in events][-1] == "complete"
    assert code == 0
    assert "permissions violation" not in guarded.log_tail(lines=200).lower()
