"""What a batch run costs beside its model started by `subprocess` alone, and how long 10,000 runs take to list.

With n runs, c slots and the seconds from the first request stored to the last result stored, a run holds its slot for
`seconds * c / n`, and its overhead is `(seconds of krt - seconds of subprocess) / n`: what somebody waits longer for
each run of many. The model waits rather than computes, so that the comparison is not one of the number of cores.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from runtime import wire
from runtime.batch.records import RunRecords, decode
from runtime.batch.run import RunRecord, RunState
from runtime.bus.base import Confirmation
from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import SystemClock
from runtime.message import Message
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.node import NodeSpec
from test.bench.processes import ROOT, BenchError, Child, Stage, clean_environment, start_node
from test.bench.report import Row, Target
from test.bench.workbench import Workbench

RUNS, AT_ONCE = 100, 4
# Runs before those that count: what a worker imports with the first one is not theirs.
WARM_UP = 8
# Runs that there are, and those that the command shows by itself.
LISTED, SHOWN = 10_000, 100
# Processes that list one after the other, and records that are written at once before.
LISTINGS = 5
WRITTEN_AT_ONCE = 200

OVERHEAD_MS = Target(bound=60, at_most=True)
LISTED_S = Target(bound=1.0, at_most=True)

MODEL = """
import os, pathlib, time
time.sleep(0.05)
pathlib.Path(os.environ["MODEL_OUTPUT_DIR"], "data.json").write_text('{"sum": 3}')
"""


async def measure(bench: Workbench, rounds: int) -> list[Row]:
    """Take both figures; bare runs and ours take turns."""
    model = bench.folder / "model.py"
    model.write_text(MODEL)
    async with bench.chain(1) as stages:
        stage = stages[0]
        await bench.bus.key_value(names.runs_bucket(stage.stream), create=True)
        await bench.bus.ensure_object_store(ObjectStoreConfig(name=f"{stage.stream}_runs"))
        child = start_node(stage, bench.folder, spec=_spec(stage, model))
        try:
            await child.wait_ready()
            await _run_all(bench, stage, child, range(WARM_UP))
            bare_s, own_s = [], []
            for begin in range(WARM_UP, WARM_UP + rounds * RUNS, RUNS):
                bare_s.append(await asyncio.to_thread(_run_bare, model))
                own_s.append(await _run_all(bench, stage, child, range(begin, begin + RUNS)))
        finally:
            await child.stop()
        await _fill(bench, stage)
        return [*_run_rows(bare_s, own_s), *await _list_rows(bench, stage)]


# --- runs ---


def _spec(stage: Stage, model: Path) -> NodeSpec:
    batch = BatchSpec(backend="command", command=(sys.executable, str(model)))
    return NodeSpec(durable=stage.durable, exit_channel="main", timeout_s=None, concurrency=AT_ONCE, batch=batch)


def _run_bare(model: Path) -> float:
    """Return the seconds that all runs take in a loop that only starts them, each with a folder, and waits."""

    def run(_: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = clean_environment() | {"MODEL_OUTPUT_DIR": folder}
            subprocess.run([sys.executable, model], env=environment, capture_output=True, check=True)

    begun_s = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, range(RUNS)))
    return time.perf_counter() - begun_s


async def _run_all(bench: Workbench, stage: Stage, child: Child, numbers: range) -> float:
    """Return the seconds from the first request to the last result, by the clock of the server."""
    first = (await bench.bus.stream_state(stage.stream)).last_sequence + 1
    await _ask(bench, stage, numbers)
    async for _ in bench.count_outputs(stage, [child], numbers.stop):
        pass
    last = (await bench.bus.stream_state(stage.stream)).last_sequence
    return await bench.stored_s(stage.stream, last) - await bench.stored_s(stage.stream, first)


async def _ask(bench: Workbench, stage: Stage, numbers: Iterable[int]) -> None:
    publisher = bench.bus.publisher(stage.stream)
    stored = []
    for number in numbers:
        request = Message(request_id=f"r{number}", payload=encode_value({"days": 3}), from_node=names.ENTRYPOINT)
        stored.append(Confirmation())
        await publisher.publish(stage.source, wire.encode(request), message_id=request.request_id, confirm=stored[-1])
    for confirm in stored:
        await confirm
    await publisher.close()


def _run_rows(bare_s: list[float], own_s: list[float]) -> list[Row]:
    name = f"{RUNS} runs of 50 ms, {AT_ONCE} at once"
    more_s = [own - bare for bare, own in zip(bare_s, own_s, strict=True)]
    return [
        _run_row(f"{name}: a slot is held", "subprocess", bare_s, AT_ONCE),
        _run_row(f"{name}: a slot is held", "krt", own_s, AT_ONCE),
        _run_row(f"{name}: overhead of a run", "krt", more_s, 1, OVERHEAD_MS),
    ]


def _run_row(name: str, who: str, all_s: list[float], slots: int, target: Target | None = None) -> Row:
    times_ms = [each_s * slots / RUNS * 1000 for each_s in all_s]
    return Row(
        name=name, who=who, value=median(times_ms), unit="ms", low=min(times_ms), high=max(times_ms), target=target
    )


# --- lists ---


async def _fill(bench: Workbench, stage: Stage) -> None:
    """Make the runs that there are, which have to be complete, as many as are to be listed, by copies of one."""
    ran = await RunRecords(bench.bus, stage.stream, SystemClock()).all()
    if incomplete := [each.summary for each in ran if each.summary.state is not RunState.COMPLETE]:
        raise BenchError(f"{len(incomplete)} of {len(ran)} runs are not complete, as {incomplete[0]}")
    record = decode(ran[0].data)
    bucket = await bench.bus.key_value(names.runs_bucket(stage.stream))
    copies = [record.changed(run_id=f"c{number}_{stage.node}_0") for number in range(LISTED - len(ran))]
    for begin in range(0, len(copies), WRITTEN_AT_ONCE):
        part: list[RunRecord] = copies[begin : begin + WRITTEN_AT_ONCE]
        await asyncio.gather(*(bucket.put(each.run_id, each.encode()) for each in part))


async def _list_rows(bench: Workbench, stage: Stage) -> list[Row]:
    """Return how long the command takes as a whole, from the start of its process, and what of it is the reading."""
    records = RunRecords(bench.bus, stage.stream, SystemClock())
    read_s, newest_s, whole_s = [], [], []
    for _ in range(LISTINGS):
        begun_s = time.perf_counter()
        await records.all()
        read_s.append(time.perf_counter() - begun_s)
        newest_s.append(await _list(bench, stage, [], SHOWN))
        whole_s.append(await _list(bench, stage, ["--limit", "0"], LISTED))
    name = f"list {LISTED:,} runs"
    return [
        Row(name=name, who=who, value=median(times_s), unit="s", low=min(times_s), high=max(times_s), target=target)
        for who, times_s, target in (
            ("RunRecords.all", read_s, None),
            ("krt runs ls", newest_s, LISTED_S),
            ("krt runs ls --limit 0", whole_s, LISTED_S),
        )
    ]


async def _list(bench: Workbench, stage: Stage, options: list[str], shown: int) -> float:
    """Return the seconds of one `krt runs ls`. Raises BenchError for one that does not show as many."""
    begun_s = time.perf_counter()
    listing = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runtime", "runs", "ls", *options,
        "--nats", bench.server.url, "--stream", stage.stream,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=clean_environment(),
    )  # fmt: skip
    out, told = await listing.communicate()
    took_s = time.perf_counter() - begun_s
    lines = out.count(b"\n")
    if listing.returncode or lines != shown + 1:
        raise BenchError(f"krt runs ls ended with {listing.returncode} and {lines} lines: {told.decode()}")
    return took_s
