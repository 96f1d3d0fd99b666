"""A batch run from a request over HTTP to its files, with callbacks, and with each kind of store."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from test.support.callback_server import CallbackServer, status
from test.support.ports import free_port
from test.support.run_process import RunProcess
from test.support.s3 import serve_s3, use_s3

WORKFLOW = """
name: flood
nodes:
  - name: rain
    kind: batch
    backend: command
    command: [python, model.py, "{input}", "{output}"]
    version: "2.4.0"
    timeout: 30s
    artifacts: {store: "STORE", public: [output/data.json, export.zip]}
    callback: {url: "{callbackURL}/runs/{id}", token_env: CALLBACK_TOKEN, allow: ["http://127.0.0.1:*/*"], timeout: 5s}
drivers:
  web: {class: http, ports: {http: PORT}, args: {runs: [rain]}}
"""
MODEL = """
import json, pathlib, sys
said = json.loads((pathlib.Path(sys.argv[1]) / "inputFile.json").read_text())
print("it rains", said["mm"])
(pathlib.Path(sys.argv[2]) / "data.json").write_text(json.dumps({"level": 2 * said["mm"]}))
sys.exit(said.get("code", 0))
"""


@pytest.fixture(params=["nats", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "s3":
        yield "nats:runs" if request.param == "nats" else f"file://{tmp_path}/artifacts"
        return
    with serve_s3() as url:
        client = use_s3(monkeypatch, url)
        client.create_bucket(Bucket="floods-over-http")
        client.close()
        yield "s3://floods-over-http/kept"


@pytest.fixture
async def http(store: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running workflow."""
    port = free_port()
    folder = tmp_path / "flood"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("STORE", store).replace("PORT", str(port)))
    (folder / "model.py").write_text(MODEL)
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    run = await RunProcess.start(tmp_path, str(folder), CALLBACK_TOKEN="secret", **variables)
    try:
        await run.wait_for("ready in ")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        await run.stop()


def told(server: CallbackServer) -> list[tuple[str, str]]:
    return [(request.headers["idempotency-key"], request.json()["status"]) for request in server.requests]


@pytest.mark.usefixtures("nats_server_binary")
async def test_a_run_is_asked_for_told_of_and_its_files_are_fetched(http: httpx.AsyncClient, store: str) -> None:
    async with CallbackServer(status(200)) as server:
        request: dict[str, Any] = {"id": "7", "configuration": {"mm": 3}, "callbackURL": server.url}
        done = await http.post("/runs/rain?wait=30s", json=request, headers={"Idempotency-Key": "one"})
        again = await http.post("/runs/rain?wait=30s", json=request, headers={"Idempotency-Key": "one"})
        failing = {**request, "configuration": {"mm": 3, "code": 3}}
        failed = await http.post("/runs/rain?wait=30s", json=failing, headers={"Idempotency-Key": "two"})
        # A run has ended in its record before its end is told.
        await server.wait_for(4)
    async with CallbackServer(status(200, b'{"action": "cancel"}')) as other:
        unwanted = {**request, "callbackURL": other.url}
        cancelled = await http.post("/runs/rain?wait=30s", json=unwanted, headers={"Idempotency-Key": "three"})
        await other.wait_for(2)
    data = await http.get("/runs/one_rain_0/artifacts/output/data.json")
    listed = (await http.get("/runs/one_rain_0/artifacts")).json()["artifacts"]
    logs = await http.get("/runs/one_rain_0/logs")

    assert (done.status_code, again.json()) == (200, done.json())
    assert done.json()["runs"][0]["resultsLocation"].startswith(f"{store}/simulation-runs/")
    assert told(server) == [
        ("one_rain_0:starting", "in-progress"),
        ("one_rain_0:complete", "complete"),
        ("two_rain_0:starting", "in-progress"),
        ("two_rain_0:failed", "failed"),
    ]
    assert told(other) == [("three_rain_0:starting", "in-progress"), ("three_rain_0:cancelled", "failed")]
    assert server.requests[1].json()["version"]["model"] == "2.4.0"
    assert server.requests[1].headers["authorization"] == "Bearer secret"
    assert (failed.status_code, failed.json()["runs"][0]["reason"]) == (500, "EXIT_CODE")
    assert (cancelled.status_code, cancelled.json()["runs"][0]["reason"]) == (409, "CANCELLED")
    assert json.loads(data.content) == {"level": 6}
    assert "it rains 3" in logs.text
    public = {each["path"] for each in listed if each["visibility"] == "public"}
    assert public == {"output/data.json", "export.zip"}
