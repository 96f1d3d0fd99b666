"""`workflows/counter` as its README walks through it: a counter for each state id, kept by a restart, and removed."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from test.support.guarded_nats import krt
from test.support.run_process import RunProcess

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, nats_server_binary: Path) -> Path:
    """A folder with a copy of the example."""
    shutil.copytree(ROOT / "workflows" / "counter", tmp_path / "counter")
    return tmp_path


async def start(place: Path, *options: str) -> RunProcess:
    run = await RunProcess.start(place, "counter", *options)
    await run.wait_for("ready in")
    return run


async def tell(place: Path, *arguments: str) -> Any:
    """Run a command that prints JSON."""
    done = await asyncio.to_thread(krt, place, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def count(place: Path, number: int, state_id: str) -> tuple[int, int]:
    """Send a number, and return what comes back: the sum and the counter of the id."""
    answer = await tell(place, "send", "counter", json.dumps({"input": number}), "--state-id", state_id)
    return answer["output"], answer["counter"]


async def test_every_state_id_has_a_counter_which_outlives_the_run(place: Path) -> None:
    run = await start(place)
    try:
        first = [await count(place, number, state_id) for number, state_id in ((1, "ada"), (2, "ada"), (40, "grace"))]
        kept = await tell(place, "state", "get", "count", "ada")
    finally:
        await run.stop()

    run = await start(place)
    try:
        later = [await count(place, 1, state_id) for state_id in ("ada", "grace")]
    finally:
        await run.stop()

    assert first == [(2, 1), (3, 2), (41, 1)]
    assert kept == {"counter": 2}
    assert later == [(2, 3), (2, 2)]


async def test_an_id_begins_anew_once_its_state_is_removed(place: Path) -> None:
    run = await start(place)
    try:
        before = [await count(place, 1, "ada") for _ in range(2)]
        removed = await asyncio.to_thread(krt, place, "state", "rm", "count", "ada")
        after = await count(place, 1, "ada")
    finally:
        await run.stop()

    assert before == [(2, 1), (2, 2)]
    assert removed.returncode == 0, removed.stderr
    assert after == (2, 1)


async def test_an_edit_of_the_adder_leaves_the_counters_as_they_are(place: Path) -> None:
    run = await start(place, "--reload")
    try:
        before = await count(place, 1, "ada")
        file = place / "counter" / "workflow.yaml"
        file.write_text(file.read_text().replace("adder: 1", "adder: 10"))
        await run.wait_for("ready again")
        after = await count(place, 1, "ada")
    finally:
        await run.stop()

    assert (before, after) == ((2, 1), (11, 2))
