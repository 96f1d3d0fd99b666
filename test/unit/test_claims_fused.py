"""Large payloads through a chain of fused nodes, in memory."""

import random
from pathlib import Path

from runtime.client import Workflow
from runtime.clock import SystemClock
from runtime.spec.claims import claims_store, read_claim_object
from runtime.spec.load import load
from runtime.testing.deployment import MemoryDeployment

WORKFLOW = """
name: scans
fuse: [[cut, read, tell]]
nodes:
  - {name: cut, handler: turn.py}
  - {name: read, handler: turn.py}
  - {name: tell, handler: turn.py}
"""
TURN = """
async def handler(ctx, data: bytes):
    return data[1:] + data[:1]
"""


async def test_a_large_payload_is_handed_on_in_the_process_and_put_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    (tmp_path / "turn.py").write_text(TURN)
    data = random.Random(0).randbytes(3 * 1024 * 1024)
    deployment = MemoryDeployment(load(tmp_path), "test", SystemClock(), fused=True)
    await deployment.start()
    try:
        async with Workflow(deployment.connect(), deployment.stream) as client:
            answer = await client.predict(data, timeout_s=5.0)
            objects = deployment.broker.object_stores[claims_store(deployment.stream)].names()
    finally:
        await deployment.stop()

    assert answer == data[3:] + data[:3]
    places = [place for name in objects if (place := read_claim_object(name)) is not None]
    assert [place.subject.rpartition(".")[2] for place in places] == ["tell", "entrypoint"]
