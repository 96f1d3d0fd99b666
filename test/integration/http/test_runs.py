"""Batch runs over HTTP: asked for, watched, cancelled, their files fetched; and asked for by GitHub."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import Visibility, artifact_key
from runtime.batch.records import RunRecords
from runtime.batch.request import read_request
from runtime.batch.run import Artifact, Locations, Reason, RunRecord, RunState, Times
from runtime.bus.base import Bus, ConsumerConfig, Reader
from runtime.bus.memory import MemoryBroker
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from runtime.drivers.fastapi_driver import FastAPIDriver, FastAPIParameters
from runtime.errors import ConfigError
from runtime.spec import names
from runtime.wire import decode
from test.support.answering_node import stream_config
from test.support.drivers import STREAM
from test.support.http import PATIENCE_S, Web, serving

ENTRYPOINT = names.entrypoint_subject(STREAM)
RESULTS = "simulation-runs/0f"
SECRET = "of the webhook"
RUNS = {"runs": ["flood"]}


class Workflow:
    """A workflow with a node `flood` whose runs the test itself brings to their ends."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.bus: Bus = broker.connect()
        self.records = RunRecords(self.bus, STREAM, SystemClock())

    async def deploy(self) -> None:
        await self.bus.ensure_stream(stream_config(STREAM))
        await self.bus.key_value(names.runs_bucket(STREAM), create=True)
        await self.bus.ensure_object_store(ObjectStoreConfig(name=f"{STREAM}_runs", storage="memory"))
        self.flood = await self._reader("flood")

    async def taken(self) -> tuple[str, dict[str, Any]]:
        """Return the request that the node gets next: its id and its configuration."""
        async with asyncio.timeout(PATIENCE_S):
            delivery = await self.flood.take()
        self.flood.ack(delivery)
        message = decode(delivery.data)
        request = read_request(message.payload, request_id=message.request_id, slug="flood")
        return message.request_id, dict(request.configuration)

    async def run(self, run_id: str, state: RunState = RunState.PENDING, **said: Any) -> RunRecord:
        """Write the record of a run."""
        times = Times(created=said.pop("created", 1))
        record = RunRecord(run_id=run_id, id="r1", node="flood", slug="flood", state=state, times=times, **said)
        return (await self.records.create(record)).record

    async def stored(self, run_id: str, files: dict[str, tuple[Visibility, bytes]], **said: Any) -> RunRecord:
        """Store files, and write the record of a complete run that has them."""
        store = await open_store("nats:runs", bus=self.bus, stream=STREAM)
        artifacts = []
        for path, (visibility, data) in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            key = artifact_key(RESULTS, visibility, path)
            await store.put(key, one(data), size=len(data), sha256=sha256)
            artifacts.append(Artifact(path=path, size=len(data), sha256=sha256, visibility=visibility))
        locations = Locations(store="nats:runs", results=RESULTS)
        return await self.run(
            run_id, RunState.COMPLETE, **{"artifacts": tuple(artifacts), "locations": locations, **said}
        )

    async def _reader(self, node: str) -> Reader:
        config = ConsumerConfig(
            stream=STREAM,
            durable=names.durable(node, ["entrypoint"]),
            filter_subjects=(ENTRYPOINT, names.redrive_subject(node, ENTRYPOINT)),
        )
        reader = self.bus.reader(config, create=True)
        await reader.start()
        return reader


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynccontextmanager
async def flooding(**arguments: Any) -> AsyncIterator[tuple[Web, Workflow]]:
    """Serve a workflow by a driver with these arguments."""
    broker = MemoryBroker(SystemClock())
    workflow = Workflow(broker)
    await workflow.deploy()
    async with serving(lambda: FastAPIDriver(**{**RUNS, **arguments}), broker.connect()) as web:
        yield web, workflow
    await workflow.flood.close()


# --- asking for runs ---


async def test_a_request_is_stored_and_its_run_is_named_at_once() -> None:
    async with flooding() as (web, workflow):
        answer = await web.http.post("/runs/flood", json={"rain": 3})
        request_id, configuration = await workflow.taken()

    assert answer.status_code == 202
    assert answer.json() == {"id": request_id, "runIds": [f"{request_id}_flood_0"]}
    assert answer.headers["location"] == f"/runs/{request_id}_flood_0"
    assert configuration == {"rain": 3}


async def test_a_request_for_several_models_names_a_run_of_each() -> None:
    body = {"models": [{"slug": "a"}, {"slug": "b"}], "configuration": {}}
    async with flooding() as (web, _):
        answer = await web.http.post("/runs/flood", json=body, headers={"Idempotency-Key": "k1"})

    assert answer.json() == {"id": "k1", "runIds": ["k1_flood_0", "k1_flood_1"]}


async def test_a_request_that_comes_again_under_its_key_is_stored_once() -> None:
    async with flooding() as (web, workflow):
        answers = [
            await web.http.post("/runs/flood", json={"rain": 3}, headers={"Idempotency-Key": "k1"}) for _ in range(2)
        ]
        await web.http.post("/runs/flood", json={}, headers={"Idempotency-Key": "k2"})
        taken = [(await workflow.taken())[0] for _ in range(2)]

    assert answers[0].json() == answers[1].json() == {"id": "k1", "runIds": ["k1_flood_0"]}
    assert taken == ["k1", "k2"]


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/runs/fire", {"json": {}}, 404, 'no runs of a node "fire"; there are: flood'),
        ("/runs/flood", {"json": [1]}, 400, "Invalid model runner input JSON. Details: "),
        ("/runs/flood", {"json": {"models": [], "configuration": {}}}, 400, '"models"'),
        ("/runs/flood", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "Invalid model"),
        ("/runs/flood", {"content": b"{}"}, 415, "Content-Type"),
        ("/runs/flood", {"data": {"a": "b"}}, 415, "Content-Type"),
        ("/runs/flood", {"json": {"a": "x" * 2000}}, 413, "1,000 bytes"),
        ("/runs/flood", {"json": {}, "headers": {"Idempotency-Key": "x" * 201}}, 400, "idempotency-key"),
        ("/runs/flood?wait=soon", {"json": {}}, 400, "wait"),
    ],
)
async def test_a_request_that_cannot_be_run_is_refused_and_not_stored(
    path: str, sent: dict[str, Any], status: int, said: str
) -> None:
    async with flooding(parameters=FastAPIParameters(max_body=1_000)) as (web, workflow):
        answer = await web.http.post(path, **sent)
        stored = (await workflow.bus.stream_state(STREAM)).messages

    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert stored == 0


@pytest.mark.parametrize(
    ("state", "reason", "status", "word"),
    [
        (RunState.COMPLETE, None, 200, "complete"),
        (RunState.UNSUPPORTED, Reason.UNSUPPORTED_INPUT, 422, "unsupported"),
        (RunState.CANCELLED, Reason.CANCELLED, 409, "failed"),
        (RunState.FAILED, Reason.EXIT_CODE, 500, "failed"),
        (RunState.FAILED, Reason.INVALID_INPUT, 400, "failed"),
        (RunState.FAILED, Reason.BACKEND_UNAVAILABLE, 503, "failed"),
        (RunState.TIMED_OUT, Reason.TIMEOUT, 504, "failed"),
    ],
)
async def test_a_request_that_waits_has_the_status_of_its_run(
    state: RunState, reason: Reason | None, status: int, word: str
) -> None:
    async with flooding() as (web, workflow):
        asking = asyncio.create_task(web.http.post("/runs/flood?wait=30s", json={}, headers={"Idempotency-Key": "k1"}))
        await workflow.taken()
        await workflow.run("k1_flood_0", state, reason=reason)
        answer = await asking

    assert answer.status_code == status
    assert [run["status"] for run in answer.json()["runs"]] == [word]


async def test_a_request_that_waits_too_short_gets_the_ids() -> None:
    async with flooding() as (web, _):
        answer = await web.http.post("/runs/flood?wait=20ms", json={}, headers={"Idempotency-Key": "k1"})

    assert answer.status_code == 202
    assert answer.json()["runIds"] == ["k1_flood_0"]


async def test_without_nodes_for_it_a_driver_starts_no_runs() -> None:
    async with flooding(runs=[]) as (web, _):
        assert (await web.http.post("/runs/flood", json={})).status_code == 404
        assert (await web.http.get("/runs")).status_code == 404


# --- looking at runs ---


async def test_runs_are_listed_newest_first_and_by_state() -> None:
    async with flooding() as (web, workflow):
        await workflow.run("a_flood_0", RunState.COMPLETE, created=1)
        await workflow.run("b_flood_0", RunState.FAILED, created=2)
        await workflow.run("c_flood_0", RunState.COMPLETE, created=3)
        every = (await web.http.get("/runs")).json()
        complete = (await web.http.get("/runs?state=complete&limit=1")).json()
        other = (await web.http.get("/runs?node=other")).json()

    assert [run["runId"] for run in every["runs"]] == ["c_flood_0", "b_flood_0", "a_flood_0"]
    assert ([run["runId"] for run in complete["runs"]], complete["more"]) == (["c_flood_0"], True)
    assert other == {"runs": [], "more": False}


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "²", "9" * 50])
async def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    async with flooding() as (web, _):
        assert (await web.http.get("/runs", params={"limit": limit})).status_code == 400


async def test_a_run_is_shown_and_an_unknown_one_is_not() -> None:
    async with flooding() as (web, workflow):
        record = await workflow.run("a_flood_0", RunState.FAILED, reason=Reason.EXIT_CODE, exit_code=3)
        shown = await web.http.get("/runs/a_flood_0")
        unknown = [await web.http.get(f"/runs/{run_id}") for run_id in ("b_flood_0", "x", "a.b", "%2e%2e%2fx")]

    assert shown.json() == json.loads(record.encode())
    assert [answer.status_code for answer in unknown] == [404] * 4


async def test_a_run_is_cancelled_once() -> None:
    async with flooding() as (web, workflow):
        await workflow.run("a_flood_0")
        first = await web.http.delete("/runs/a_flood_0")
        second = await web.http.delete("/runs/a_flood_0")
        unknown = await web.http.delete("/runs/b_flood_0")

    assert (first.status_code, first.json()["state"]) == (202, "cancelled")
    assert (second.status_code, second.json()["outcome"]) == (409, "cancelled")
    assert unknown.status_code == 404


# --- what runs leave ---


async def test_the_log_of_a_run_that_has_ended_is_the_stored_one() -> None:
    async with flooding() as (web, workflow):
        await workflow.stored("a_flood_0", {"log/runner.log": ("private", b"rain \xff\n")})
        answer = await web.http.get("/runs/a_flood_0/logs")

    assert answer.status_code == 200
    assert answer.content == b"rain \xff\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_the_log_of_a_run_that_goes_on_is_told_until_its_end() -> None:
    async with flooding() as (web, workflow):
        running = await workflow.run("a_flood_0", RunState.RUNNING)
        async with web.http.stream("GET", "/runs/a_flood_0/logs") as answer:
            workflow.records.tell_output("a_flood_0", "stdout", b"one\n")
            workflow.records.tell_output("a_flood_0", "stderr", b"two\n")
            kept = await workflow.records.read("a_flood_0")
            await workflow.records.change(kept, running.changed(state=RunState.STORING))
            kept = await workflow.records.read("a_flood_0")
            await workflow.records.change(kept, running.changed(state=RunState.COMPLETE))
            told = await answer.aread()

    assert told == b"one\ntwo\n"


async def test_files_are_listed_and_fetched_whatever_their_names() -> None:
    name = "output/two words/größe+100%.json"
    large = bytes(range(256)) * 8192
    async with flooding() as (web, workflow):
        files: dict[str, tuple[Visibility, bytes]] = {
            name: ("public", b"{}"), "output/back\\\\slash": ("private", large), "output/empty": ("private", b"")
        }  # fmt: skip
        await workflow.stored("a_flood_0", files)
        listed = (await web.http.get("/runs/a_flood_0/artifacts")).json()
        url = "/runs/a_flood_0/artifacts/output/two%20words/gr%C3%B6%C3%9Fe%2B100%25.json"
        answer = await web.http.get(url)
        other = await web.http.get("/runs/a_flood_0/artifacts/output/back%5C%5Cslash")
        empty = await web.http.get("/runs/a_flood_0/artifacts/output/empty")
        unknown = await web.http.get("/runs/a_flood_0/artifacts/output/none")

    assert [each["path"] for each in listed["artifacts"]] == list(files)
    assert (answer.content, answer.headers["content-type"]) == (b"{}", "application/json")
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (other.content, other.headers["content-type"]) == (large, "application/octet-stream")
    assert (empty.status_code, empty.content) == (200, b"")
    assert unknown.status_code == 404


async def test_a_file_that_the_record_has_no_room_for_is_found_in_the_store() -> None:
    async with flooding() as (web, workflow):
        await workflow.stored("a_flood_0", {"output/a": ("private", b"a")}, artifacts=(), left_out=1)
        answer = await web.http.get("/runs/a_flood_0/artifacts/output/a")

    assert answer.content == b"a"


async def test_a_store_that_is_gone_is_unavailable_and_a_lost_file_unknown() -> None:
    async with flooding() as (web, workflow):
        await workflow.stored("a_flood_0", {"output/a": ("public", b"a")})
        del workflow.broker.object_stores[f"{STREAM}_runs"]
        gone = await web.http.get("/runs/a_flood_0/artifacts/output/a")
        await workflow.bus.ensure_object_store(ObjectStoreConfig(name=f"{STREAM}_runs", storage="memory"))
        lost = await web.http.get("/runs/a_flood_0/artifacts/output/a")

    assert (gone.status_code, gone.json()["outcome"]) == (503, "unavailable")
    assert lost.status_code == 404


async def test_without_a_token_only_public_files_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENS", "read:reader run:submitter")
    files: dict[str, tuple[Visibility, bytes]] = {
        "output/data.json": ("public", b"{}"), "log/runner.log": ("private", b"private")
    }  # fmt: skip
    async with flooding(token_env="TOKENS") as (web, workflow):
        await workflow.stored("a_flood_0", files)
        public = await web.http.get("/runs/a_flood_0/artifacts/output/data.json")
        refused = [
            await web.http.get(f"/runs/{path}")
            for path in ("a_flood_0", "a_flood_0/logs", "a_flood_0/artifacts", "a_flood_0/artifacts/log/runner.log",
                         "a_flood_0/artifacts/output/none", "b_flood_0/artifacts/output/data.json")
        ]  # fmt: skip
        posted = await web.http.post("/runs/flood", json={})
        reader = {"Authorization": "Bearer reader"}
        private = await web.http.get("/runs/a_flood_0/artifacts/log/runner.log", headers=reader)
        cancelled = await web.http.delete("/runs/a_flood_0", headers=reader)

    assert (public.status_code, public.content) == (200, b"{}")
    assert [answer.status_code for answer in refused] == [401] * 6
    # The same for what is private and for what there is not.
    assert len({answer.content for answer in refused}) == 1
    assert posted.status_code == 401
    assert (private.status_code, private.content) == (200, b"private")
    assert cancelled.status_code == 403


async def test_every_route_is_in_the_document() -> None:
    async with flooding() as (web, _):
        document = (await web.http.get("/openapi.json")).json()

    operations = {(path, verb) for path, each in document["paths"].items() if "/runs" in path for verb in each}
    assert operations == {
        ("/runs", "get"),
        ("/runs/{id}", "post"),
        ("/runs/{id}", "get"),
        ("/runs/{id}", "delete"),
        ("/runs/{id}/logs", "get"),
        ("/runs/{id}/artifacts", "get"),
        ("/runs/{id}/artifacts/{path}", "get"),
    }
    assert document["paths"]["/runs/{id}"]["post"]["parameters"][0]["schema"]["enum"] == ["flood"]


# --- GitHub ---


def signed(event: Any, *, secret: str = SECRET, delivery: str = "d-1", kind: str = "repository_dispatch") -> Any:
    """Return what GitHub sends."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": kind,
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return {"content": body, "headers": headers}


@asynccontextmanager
async def hooked(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> AsyncIterator[tuple[Web, Workflow]]:
    monkeypatch.setenv("GITHUB_SECRET", SECRET)
    monkeypatch.setenv("TOKENS", "token")
    said = {"token_env": "TOKENS", "github_secret_env": "GITHUB_SECRET", **arguments}
    async with flooding(**said) as (web, workflow):
        yield web, workflow


async def test_a_dispatch_of_github_starts_a_run_and_its_redelivery_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = {"action": "run-model", "client_payload": {"rain": 3}}
    async with hooked(monkeypatch) as (web, workflow):
        first = await web.http.post("/webhooks/github", **signed(event))
        again = await web.http.post("/webhooks/github", **signed(event))
        other = await web.http.post("/webhooks/github", **signed(event, delivery="d-2"))
        taken = [await workflow.taken() for _ in range(2)]

    assert [answer.status_code for answer in (first, again, other)] == [202] * 3
    assert first.json() == again.json() == {"id": "d-1", "runIds": ["d-1_flood_0"]}
    assert taken == [("d-1", {"rain": 3}), ("d-2", {"rain": 3})]


@pytest.mark.parametrize("fault", ["other secret", "other body", "no signature", "sha1", "not ASCII"])
async def test_what_github_has_not_signed_starts_nothing(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    sent = signed({"client_payload": {}}, secret="other" if fault == "other secret" else SECRET)
    if fault == "other body":
        sent["content"] += b" "
    elif fault == "no signature":
        del sent["headers"]["X-Hub-Signature-256"]
    elif fault == "sha1":
        sent["headers"]["X-Hub-Signature-256"] = "sha1=" + "0" * 40
    elif fault == "not ASCII":
        sent["headers"]["X-Hub-Signature-256"] = "sha256=\xe9".encode("latin-1")
    # Not even with a token: it is GitHub that has to be known.
    sent["headers"]["Authorization"] = "Bearer token"

    async with hooked(monkeypatch) as (web, workflow):
        answer = await web.http.post("/webhooks/github", **sent)
        stored = (await workflow.bus.stream_state(STREAM)).messages

    assert answer.status_code == 401
    assert stored == 0


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (signed({"zen": "x"}, kind="ping"), 200, "ping"),
        (signed({"client_payload": {}}, kind="push"), 200, "push"),
        (signed(b"{"), 400, "no JSON"),
        (signed([]), 400, "client_payload"),
        (signed({"client_payload": 3}), 400, "client_payload"),
        (signed({"client_payload": {"models": [], "configuration": {}}}), 400, "models"),
        (signed({"client_payload": {}}, delivery=""), 400, "x-github-delivery"),
    ],
)
async def test_another_event_of_github_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, sent: Any, status: int, said: str
) -> None:
    async with hooked(monkeypatch) as (web, workflow):
        answer = await web.http.post("/webhooks/github", **sent)
        stored = (await workflow.bus.stream_state(STREAM)).messages

    assert answer.status_code == status
    assert said in answer.text
    assert stored == 0


async def test_a_webhook_names_the_node_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    event: dict[str, Any] = {"client_payload": {}}
    async with hooked(monkeypatch, runs=["fire", "flood"]) as (web, _):
        unnamed = await web.http.post("/webhooks/github", **signed(event))
        named = await web.http.post("/webhooks/github?node=flood", **signed(event))
        unknown = await web.http.post("/webhooks/github?node=none", **signed(event))

    assert (unnamed.status_code, named.status_code, unknown.status_code) == (400, 202, 404)


async def test_without_a_secret_there_is_no_webhook() -> None:
    async with flooding() as (web, _):
        assert (await web.http.post("/webhooks/github", **signed({"client_payload": {}}))).status_code == 404


def test_a_webhook_without_a_secret_or_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_SECRET", raising=False)
    with pytest.raises(ConfigError, match="GITHUB_SECRET holds no secret"):
        FastAPIDriver(runs=["flood"], github_secret_env="GITHUB_SECRET")
    with pytest.raises(ConfigError, match="only with runs"):
        FastAPIDriver(github_secret_env="GITHUB_SECRET")
