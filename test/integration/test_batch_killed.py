"""A worker of batch runs is killed at every point of a run: one run, one start and one end told, and nothing left."""

import asyncio
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.batch.backend import RUN_VARIABLE
from runtime.batch.records import RunRecords
from runtime.batch.run import RunState
from runtime.clock import SystemClock
from runtime.spec.batch import ArtifactRules, BatchSpec, CallbackRules
from runtime.spec.node import NodeSpec
from test.integration.conftest import OpenWorkbench
from test.support.children import Workbench
from test.support.kill_at import BATCH_POINTS, NODE_POINTS
from test.support.node import NODE, STREAM, node_spec

pytestmark = pytest.mark.attack

RUN = f"r0_{NODE}_0"
# Says that it has run, by a line of its own.
MODEL = """
import json, os, pathlib, time
with open("starts", "a") as starts:
    starts.write("started\\n")
time.sleep(float(os.environ.get("WORK_S", "0")))
pathlib.Path(os.environ["MODEL_OUTPUT_DIR"], "data.json").write_text(json.dumps({"sum": 3}))
print("done")
"""


class Hook:
    """A server that says yes to everything. keys: of the calls, each as often as it came."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                hook.keys.append(self.headers["Idempotency-Key"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/runs"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


def batch_node(folder: Path, hook: Hook, **changes: object) -> NodeSpec:
    spec = BatchSpec(
        backend="command",
        command=(sys.executable, "model.py"),
        artifacts=ArtifactRules(store=f"file://{folder}/store"),
        callback=CallbackRules(url=hook.url, allow=("http://127.0.0.1:*/**",)),
        timeout_s=60.0,
        grace_s=1.0,
    ).model_copy(update=changes)
    return node_spec(batch=spec, timeout_s=None, concurrency=1)


async def open_bench(open_workbench: OpenWorkbench, spec: NodeSpec) -> Workbench:
    bench = await open_workbench("", ack_wait_s=1.0, spec=spec)
    (bench.folder / "model.py").write_text(MODEL)
    return bench


def folders_left(bench: Workbench) -> list[str]:
    work = bench.folder / ".krt" / "batch" / STREAM / NODE
    return sorted(os.listdir(work)) if work.is_dir() else []


def processes_of(run_id: str) -> list[int]:
    """Return the processes that are of a run, by their environment."""
    mark = f"{RUN_VARIABLE}={run_id}".encode()
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(int(pid))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_s, "it does not happen"
        time.sleep(0.02)


async def until_state(bench: Workbench, state: RunState) -> None:
    records = RunRecords(bench.bus, STREAM, SystemClock())
    reached = asyncio.Event()
    watch = await records.follow(RUN, lambda record: reached.set() if record.state is state else None)
    try:
        async with asyncio.timeout(20):
            await reached.wait()
    finally:
        await watch.unsubscribe()


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", [*BATCH_POINTS, "taken", "before the ack", "ack written"])
async def test_a_kill_at_any_point_makes_one_run_of_it(open_workbench: OpenWorkbench, hook: Hook, point: str) -> None:
    assert point in BATCH_POINTS or point in NODE_POINTS
    spec = batch_node(Path("/nowhere"), hook)
    bench = await open_workbench("", ack_wait_s=1.0, spec=spec)
    (bench.folder / "model.py").write_text(MODEL)
    spec = batch_node(bench.folder, hook)
    victim = await bench.launch_child(spec, module=("test.support.kill_at", point, "1")).ready()
    await bench.feed([{"days": 3}])
    assert await victim.exit_code() == -signal.SIGKILL

    await bench.start_child(spec)

    (result,) = await bench.see(1)
    await bench.settled()
    assert [run["status"] for run in result["runs"]] == ["complete"]
    record = (await RunRecords(bench.bus, STREAM, SystemClock()).read(RUN)).record
    assert (record.state, record.owner) == (RunState.COMPLETE, "")
    assert set(hook.keys) == {f"{RUN}:starting", f"{RUN}:complete"}
    assert (await bench.stored(), await bench.dead_letters()) == (1, 0)
    assert (processes_of(RUN), folders_left(bench)) == ([], [])


@pytest.mark.timeout(60)
async def test_a_model_whose_worker_is_killed_is_ended_and_runs_again(
    open_workbench: OpenWorkbench, hook: Hook
) -> None:
    spec = batch_node(Path("/nowhere"), hook, environment={"WORK_S": "2"})
    bench = await open_bench(open_workbench, spec)
    spec = batch_node(bench.folder, hook, environment={"WORK_S": "2"})
    victim = await bench.start_child(spec)
    await bench.feed([{}])
    await until_state(bench, RunState.RUNNING)

    victim.kill()
    await bench.start_child(spec)
    await bench.see(1)

    record = (await RunRecords(bench.bus, STREAM, SystemClock()).read(RUN)).record
    assert (record.state, record.attempt) == (RunState.COMPLETE, 2)
    assert len((bench.folder / "starts").read_text().splitlines()) <= 2
    assert processes_of(RUN) == []


@pytest.mark.timeout(60)
async def test_a_stopped_worker_ends_its_model_and_another_one_runs_it(
    open_workbench: OpenWorkbench, hook: Hook
) -> None:
    spec = batch_node(Path("/nowhere"), hook, environment={"WORK_S": "3"})
    bench = await open_bench(open_workbench, spec)
    spec = batch_node(bench.folder, hook, environment={"WORK_S": "3"})
    first = await bench.start_child(spec)
    await bench.feed([{}])
    await until_state(bench, RunState.RUNNING)

    first.terminate()
    assert await first.exit_code() == 0
    assert processes_of(RUN) == []
    await bench.start_child(spec)
    (result,) = await bench.see(1)

    assert result["runs"][0]["status"] == "complete"


@pytest.mark.timeout(60)
async def test_a_run_is_cancelled_while_it_runs_and_leaves_its_log(open_workbench: OpenWorkbench, hook: Hook) -> None:
    spec = batch_node(Path("/nowhere"), hook, environment={"WORK_S": "600"})
    bench = await open_bench(open_workbench, spec)
    spec = batch_node(bench.folder, hook, environment={"WORK_S": "600"})
    await bench.start_child(spec)
    await bench.feed([{}])
    await until_state(bench, RunState.RUNNING)
    records = RunRecords(bench.bus, STREAM, SystemClock())

    await records.cancel(RUN)
    (result,) = await bench.see(1)

    assert (result["runs"][0]["status"], result["runs"][0]["reason"]) == ("failed", "CANCELLED")
    record = (await records.read(RUN)).record
    assert {artifact.visibility for artifact in record.artifacts} == {"private"}
    assert "log/stdout.log" in [artifact.path for artifact in record.artifacts]
    assert processes_of(RUN) == []


@pytest.mark.timeout(60)
async def test_what_could_not_be_stored_is_stored_on_request(open_workbench: OpenWorkbench, hook: Hook) -> None:
    spec = batch_node(Path("/nowhere"), hook)
    bench = await open_bench(open_workbench, spec)
    (bench.folder / "store").write_text("no folder")
    spec = batch_node(bench.folder, hook).model_copy(
        update={"retry": node_spec().retry.model_copy(update={"attempts": 1})}
    )
    await bench.start_child(spec)
    await bench.feed([{}])
    (result,) = await bench.see(1)
    assert result["runs"][0]["reason"] == "STORE_FAILED"
    assert folders_left(bench) == [RUN]
    records = RunRecords(bench.bus, STREAM, SystemClock())

    (bench.folder / "store").unlink()
    await records.store_again(RUN)
    await until_state(bench, RunState.COMPLETE)

    await asyncio.to_thread(wait_for, lambda: not folders_left(bench))
    record = (await records.read(RUN)).record
    assert json.loads((bench.folder / "store" / record.locations.results / "public/output/data.json").read_text()) == {
        "sum": 3
    }
    assert len((bench.folder / "starts").read_text().splitlines()) == 1
