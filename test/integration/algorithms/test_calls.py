"""Calls of algorithms in runner processes, over a real nats-server."""

import asyncio
import json

import pytest

from runtime.errors import AlgorithmError
from test.support.algorithms import Bench

ISOLATIONS = pytest.mark.parametrize("isolation", ["thread", "process"])

ADAPTER = '''
import asyncio, math, os, sys
from datetime import datetime, UTC
from dataclasses import dataclass

class RequestError(Exception):
    pass

class Response:
    status_code = 418

class FetchError(RequestError):
    response = Response()

@dataclass
class Box:
    width: int

def run_add(a: int, b: int = 2) -> int:
    """Add two numbers.

    Not part of it."""
    return a + b

async def run_wait(seconds: float):
    await asyncio.sleep(seconds)
    return "waited"

def run_type(when: datetime):
    return type(when).__name__

def run_time():
    return datetime(2026, 1, 2, tzinfo=UTC)

def run_box():
    return [Box(3)]

def run_result(kind: str):
    return {"nan": {"score": [1.0, math.nan]}, "set": {"tags": {1}}, "object": object(), "none": None}[kind]

def run_fail(text: str):
    raise ValueError(text)

def run_refuse(fetch: bool = False):
    raise FetchError("x") if fetch else RequestError("no such image")

def run_exit(code: int):
    sys.exit(code)

def run_crash():
    os._exit(7)

def run_huge(size: int):
    return os.urandom(size // 2).hex()

def run_length(text: str):
    return len(text)

def run_secrets():
    return [name for name in os.environ if name.startswith("KRT_")] + [os.environ.get("MODEL_PATH")]
'''


@ISOLATIONS
async def test_results_and_failures_come_back_as_they_are(bench: Bench, isolation: str) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION=isolation)
    run, fails = bench.client.run, bench.fails

    assert await run("add", {"a": "40"}) == 42
    assert await run("wait", {"seconds": 0.01}) == "waited"
    assert await run("type", {"when": "2026-01-02T03:04:05Z"}) == "datetime"
    assert await run("time") == "2026-01-02T00:00:00+00:00"
    assert await run("box") == [{"width": 3}]
    assert await run("result", {"kind": "none"}) is None

    invalid = await fails(run("add", {"a": "x", "c": 1}))
    assert (invalid.outcome, [fault["path"] for fault in invalid.errors]) == ("invalid", ["a", "c"])
    assert "a: Input should be a valid integer" in invalid.detail and "c: Extra inputs" in invalid.detail

    refused = await fails(run("refuse"))
    assert (refused.outcome, refused.detail) == ("invalid", "no such image")
    fetched = await fails(run("refuse", {"fetch": True}))
    assert fetched.detail == "Error fetching request image, received 418"

    failed = await fails(run("fail", {"text": "no luck"}))
    assert (failed.outcome, failed.detail) == ("failed", "ValueError: no luck")
    assert "raise ValueError(text)" in failed.traceback and "perform" not in failed.traceback

    for kind, said in {
        "nan": "nan at score.1 has no form in JSON",
        "set": "set at tags has no form in JSON",
        "object": "object has no form in JSON",
    }.items():
        error = await fails(run("result", {"kind": kind}))
        assert (error.outcome, error.detail) == ("bad_implementation", f"the result is no JSON: {said}")

    ended = await fails(run("exit", {"code": 3}))
    assert (ended.outcome, ended.detail) == ("failed", "the algorithm has called sys.exit: exit code 3")
    assert await run("add", {"a": 1}) == 3


@ISOLATIONS
async def test_bodies_larger_than_a_message_travel(bench: Bench, isolation: str) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION=isolation)

    # Too large even when it is compressed, so that it is a claim; and one that gzip makes small.
    assert len(await bench.client.run("huge", {"size": 6_000_000})) == 6_000_000
    assert await bench.client.run("length", {"text": "é" * 2_000_000}) == 2_000_000


async def test_bodies_above_the_cap_are_invalid(bench: Bench) -> None:
    await bench.start(ADAPTER, MAX_CLAIM_BYTES="3000000")

    result = await bench.fails(bench.client.run("huge", {"size": 8_000_000}))
    assert result.outcome == "invalid" and "the result is too large" in result.detail
    payload = await bench.fails(bench.client.run("length", {"text": "é" * 2_000_000}))
    assert payload.outcome == "invalid"
    assert await bench.client.run("length", {"text": "é"}) == 1


async def test_a_worker_that_dies_is_named_and_replaced(bench: Bench) -> None:
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION="process")

    error = await bench.fails(bench.client.run("crash"))

    assert (error.outcome, error.detail) == ("failed", "the process of the algorithm has ended with exit code 7")
    assert await bench.client.run("add", {"a": 1}) == 3


async def test_algorithms_in_processes_see_the_users_variables_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", "/models/a")
    await bench.start(ADAPTER, ALGORITHMS_ISOLATION="process")

    assert await bench.client.run("secrets") == ["/models/a"]


async def test_any_nats_client_can_call(bench: Bench) -> None:
    await bench.start(ADAPTER)

    answer = await bench.bus.request("algorithm.add.run", b'{"a": 5}', timeout_s=5)
    bad = await bench.bus.request("algorithm.add.run", b"[NaN]", timeout_s=5)
    listed = await bench.bus.request("algorithm.add.run", b"[1]", timeout_s=5)

    assert json.loads(answer.data) == {"result": 7}
    assert (answer.headers["Krt-Runner"], answer.headers["Krt-Version"]) == ("images", "0.0.0")
    assert bad.headers["Nats-Service-Error-Code"] == "400"
    told = json.loads(bad.data)
    assert told["outcome"] == "invalid" and "the body is no JSON" in told["detail"]
    assert "the body is no JSON object of arguments, but list" in json.loads(listed.data)["detail"]


async def test_a_result_names_who_has_answered(bench: Bench) -> None:
    await bench.start(f"__version__ = '1.4.0'\n{ADAPTER}", RUNNER_NAME="ocr_runner")

    found = await bench.client.call("add", b'{"a": 1}', timeout_s=5, request_id="r1")

    assert (found.result, found.runner, found.version) == (3, "ocr_runner", "1.4.0")


async def test_the_micro_service_is_seen_by_tools(bench: Bench) -> None:
    await bench.start(ADAPTER)
    await bench.client.run("add", {"a": 1})
    await bench.fails(bench.client.run("add", {}))

    ping, info, stats = [
        json.loads((await bench.bus.request(f"$SRV.{verb}.algorithms-images", b"", timeout_s=5)).data)
        for verb in ("PING", "INFO", "STATS")
    ]

    assert (ping["type"], ping["name"]) == ("io.nats.micro.v1.ping_response", "algorithms-images")
    add = next(endpoint for endpoint in info["endpoints"] if endpoint["name"] == "add")
    assert (add["subject"], add["queue_group"]) == ("algorithm.add.run", "algorithm.add")
    assert add["metadata"]["doc"] == "Add two numbers." and len(add["metadata"]["schema_hash"]) == 64
    assert json.loads(add["metadata"]["schema"])["request"]["required"] == ["a"]
    counted = next(endpoint for endpoint in stats["endpoints"] if endpoint["name"] == "add")
    assert (counted["num_requests"], counted["num_errors"]) == (2, 1)
    assert counted["last_error"] == "invalid: a: Field required" and counted["processing_time"] > 0
    assert ping["id"] == info["id"] == stats["id"]


async def test_schemas_are_read_over_nats_and_by_the_client(bench: Bench) -> None:
    await bench.start(ADAPTER)

    schemas = await bench.client.schemas()
    described = await bench.client.describe("add")

    assert schemas["add"]["title"] == "AlgorithmRequestModel_add" and len(schemas) == 13
    assert described["response"] == {"type": "integer"} and described["doc"] == "Add two numbers."
    listed = (await bench.client.list())["add"]
    assert (listed.runners, listed.hash, len(listed.instances)) == (("images",), described["schema_hash"], 1)


async def test_never_heard_of_differs_from_not_served_now(bench: Bench) -> None:
    runner = await bench.start(ADAPTER)
    await bench.client.wait("add", timeout=10)

    unknown = await bench.fails(bench.client.run("absent"))
    odd = await bench.fails(bench.client.run("a.b"))
    runner.terminate()
    assert await runner.exit_code() == 0
    unavailable = await bench.fails(bench.client.run("add", {"a": 1}))

    assert unknown.outcome == odd.outcome == "unknown" and "there are: add, box" in unknown.detail
    assert unavailable.outcome == "unavailable" and "runner images did at 20" in unavailable.detail


async def test_a_runner_that_comes_later_is_waited_for(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.client.wait("add", timeout=20))
    await asyncio.sleep(0)
    await bench.start(ADAPTER)

    assert (await waiting).name == "add"
    with pytest.raises(AlgorithmError, match='no algorithm "never" is known'):
        await bench.client.wait("never", timeout=0.05)
