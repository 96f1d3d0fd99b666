"""`workflows/digits` over HTTP, as its README asks with curl."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from test.support.run_process import RunProcess

DIGITS = Path(__file__).parents[2] / "workflows" / "digits"
SAMPLE = json.loads((DIGITS / "sample.json").read_text())
# Seconds that an answer may take: the model is trained meanwhile.
PATIENCE_S = 30.0


@pytest.fixture
async def client(tmp_path: Path, nats_server_binary: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the address that `krt run` prints; the run has to stop in order behind it."""
    run = await RunProcess.start(tmp_path, str(DIGITS))
    try:
        address = re.search(r"http://\S+", await run.wait_for("api: http://"))
        assert address is not None
        async with httpx.AsyncClient(base_url=address[0], timeout=PATIENCE_S) as client:
            yield client
    finally:
        status = await run.stop()
    assert status == 0


async def test_an_image_is_read_and_what_is_none_is_refused(client: httpx.AsyncClient) -> None:
    read = await client.post("/predict", json=SAMPLE)
    too_small = await client.post("/predict", json={"pixels": [16]})
    untyped = await client.post("/predict", json={"pixels": "none"})

    expected = json.loads((DIGITS / "expected.json").read_text())
    assert (read.status_code, read.json()) == (
        200,
        {**expected, "confidence": pytest.approx(expected["confidence"], abs=0.01)},
    )
    assert (too_small.status_code, too_small.json()["node"]) == (400, "normalise")
    assert "a scan has 64 pixels of 0 to 16" in too_small.json()["detail"]
    assert (untyped.status_code, [fault["field"] for fault in untyped.json()["faults"]]) == (400, ["pixels"])


async def test_a_task_is_fetched_later(client: httpx.AsyncClient) -> None:
    accepted = await client.post("/tasks", json=SAMPLE)
    done = await client.get(accepted.headers["location"], params={"wait": f"{PATIENCE_S:g}s"})

    assert accepted.status_code == 202
    assert (done.status_code, done.json()["digit"]) == (200, "2")
