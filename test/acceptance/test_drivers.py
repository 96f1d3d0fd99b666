"""Drivers as a user has them: in the workflow file and added to a run, as processes that fail, die and are removed."""

import asyncio
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import exits
from test.support.guarded_nats import krt
from test.support.run_process import RunProcess

ECHO = """
import asyncio
import pathlib

GATE = pathlib.Path(__file__).with_name("closed")


async def handler(ctx, data: dict) -> dict:
    while GATE.exists():
        await asyncio.sleep(0.01)
    print("handled", data["name"])
    return data
"""
# Asks once, prints the answer, and waits for its stop; without waiting for the answer when it is to `leave` it.
OWN = """
from runtime.drivers import PipelineDriver


class Asks(PipelineDriver):
    def __init__(self, name, leave=False):
        self._name = name
        self._leave = leave

    def run(self, inference, resources):
        answer = inference.predict({"name": self._name}, timeout=100)
        print(self._name, "has asked", flush=True)
        if not self._leave:
            print(self._name, "got", answer.result(), flush=True)
        inference.stopping.wait()

    def stop(self): ...


class Broken(Asks):
    def __init__(self):
        raise ValueError("no such camera")


class Dies(Asks):
    def __init__(self):
        import os

        os._exit(7)
"""


@pytest.fixture
async def place(tmp_path: Path, nats_server_binary: Path) -> Path:
    """The folder of the test, with the workflow `flow`: a node that echoes, and a driver of the folder.

    Both are patient: while the gate is closed, several commands run, for which a loaded machine needs half a minute.
    """
    flow = tmp_path / "flow"
    flow.mkdir()
    (flow / "echo.py").write_text(ECHO)
    (flow / "own.py").write_text(OWN)
    write(tmp_path, 'first: {class: "own:Asks", args: {name: first}}')
    return tmp_path


@pytest.fixture
async def runs() -> AsyncIterator[list[RunProcess]]:
    """Where tests put what they have started; it is stopped behind them."""
    started: list[RunProcess] = []
    yield started
    for run in started:
        await run.stop()


def write(place: Path, drivers: str) -> None:
    nodes = "nodes: [{name: echo, handler: echo.py, timeout: 100s}]"
    (place / "flow" / "workflow.yaml").write_text(f"name: flow\n{nodes}\ndrivers:\n  {drivers}\n")


async def start(runs: list[RunProcess], place: Path, *options: str) -> RunProcess:
    runs.append(await RunProcess.start(place, "flow", *options))
    return runs[-1]


async def driver(place: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `krt driver COMMAND flow …`."""
    return await asyncio.to_thread(krt, place, "driver", command, "flow", *arguments)


async def listed(place: Path) -> dict[str, Any]:
    """Return what `krt driver ls` tells, by ref."""
    done = await driver(place, "ls", "--json")
    assert done.returncode == exits.OK, done.stderr
    return {told["ref"]: told for told in map(json.loads, done.stdout.splitlines())}


async def test_removing_an_added_driver_disturbs_neither_the_others_nor_messages_in_flight(
    place: Path, runs: list[RunProcess]
) -> None:
    gate = place / "flow" / "closed"
    gate.touch()
    run = await start(runs, place)
    await run.wait_for("first has asked")
    added = await driver(place, "add", "second", "own:Asks", "--arg", "name=second", "--arg", "leave=true")
    await run.wait_for("second has asked")
    before = await listed(place)

    removed = await driver(place, "rm", "second")
    after = await listed(place)
    gate.unlink()

    assert (added.returncode, added.stdout.split()[0], added.stdout.split()[-1]) == (exits.OK, "second", "running")
    assert {ref: told["state"] for ref, told in before.items()} == {"first": "running", "second": "running"}
    assert removed.returncode == exits.OK
    assert after == {"first": before["first"]}
    await run.wait_for("first got {'name': 'first'}")
    assert sorted(line.partition("handled ")[2] for line in run.lines if "handled " in line) == ["first", "second"]


async def test_the_ref_of_a_removed_driver_can_be_used_again_and_that_of_another_cannot(
    place: Path, runs: list[RunProcess]
) -> None:
    run = await start(runs, place)
    await run.wait_for("ready in")

    taken = await driver(place, "add", "first", "own:Asks", "--arg", "name=other")
    removed = await driver(place, "rm", "first")
    again = await driver(place, "add", "first", "own:Asks", "--arg", "name=again")

    assert (taken.returncode, removed.returncode, again.returncode) == (exits.FAILED, exits.OK, exits.OK)
    assert 'there is a driver "first" already' in taken.stderr
    await run.wait_for("again got {'name': 'again'}")


async def test_a_driver_that_is_killed_comes_back_under_its_pid(place: Path, runs: list[RunProcess]) -> None:
    run = await start(runs, place)
    await run.wait_for("first got")
    before = (await listed(place))["first"]

    os.kill(before["os_pid"], signal.SIGKILL)
    await run.wait_for("krt.driver.first ended with SIGKILL")
    await run.wait_for("first got")

    after = (await listed(place))["first"]
    assert (after["pid"], after["state"]) == (before["pid"], "running")
    assert after["os_pid"] != before["os_pid"]


async def test_a_driver_that_cannot_be_made_is_listed_with_its_reason_and_the_rest_works(
    place: Path, runs: list[RunProcess]
) -> None:
    write(place, '{bad: {class: "own:Broken"}, first: {class: "own:Asks", args: {name: first}}}')
    run = await start(runs, place)
    said = await run.wait_for("the rest runs")

    added = await driver(place, "add", "worse", "own:Broken")

    told = await listed(place)
    assert "krt.driver.bad (failed)" in said
    assert (added.returncode, added.stderr) == (
        exits.FAILED,
        "driver worse has failed: ValueError: no such camera (`krt driver rm flow worse` takes it off the list)\n",
    )
    reason = "ValueError: no such camera"
    assert {ref: (each["state"], each["reason"]) for ref, each in told.items()} == {
        "bad": ("failed", reason),
        "first": ("running", ""),
        "worse": ("failed", reason),
    }
    assert [(await driver(place, "rm", ref)).returncode for ref in ("bad", "worse")] == [exits.OK, exits.OK]
    assert set(await listed(place)) == {"first"}


async def test_a_driver_whose_process_dies_at_once_is_refused_with_its_exit_code(
    place: Path, runs: list[RunProcess]
) -> None:
    run = await start(runs, place)
    await run.wait_for("ready in")

    died = await driver(place, "add", "dies", "own:Dies")

    assert died.returncode == exits.FAILED
    assert "the process of the driver, krt.driver.dies, ended with exit code 7" in died.stderr
    # Its record, if it came to write one, stays until it expires.
    async with asyncio.timeout(30):
        while "dies" in (drivers := await listed(place)):
            pass
    assert set(drivers) == {"first"}


async def test_an_http_driver_is_told_with_its_address_and_answers_there(place: Path, runs: list[RunProcess]) -> None:
    write(place, "api: http")
    run = await start(runs, place)

    address = (await run.wait_for("driver    api: http://")).split()[-1]

    body = json.dumps({"name": "Ada"}).encode()
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
    with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
        assert json.loads(answer.read()) == {"name": "Ada"}
    shown = await driver(place, "services")
    assert shown.stdout == f"api  http  {address}\n"


async def test_parameters_are_set_live_and_a_wrong_one_changes_nothing(place: Path, runs: list[RunProcess]) -> None:
    write(place, "api: {class: http, timeout: 20s, parameters: {task_ttl: 50s}}")
    run = await start(runs, place)
    await run.wait_for("ready in")

    wrong = await driver(place, "params", "api", "task_ttl=never", "max_in_flight=1")
    right = await driver(place, "params", "api", "task_ttl=10s")

    values = json.loads(right.stdout)
    assert (wrong.returncode, right.returncode) == (exits.CONFIG, exits.OK)
    assert "task_ttl" in wrong.stderr
    assert (values["timeout"], values["task_ttl"], values["max_in_flight"]) == (20.0, 10.0, 256)


async def test_an_added_driver_outlives_an_edit_of_the_workflow(place: Path, runs: list[RunProcess]) -> None:
    run = await start(runs, place, "--reload")
    await run.wait_for("ready in")
    await driver(place, "add", "second", "own:Asks", "--arg", "name=second")
    before = await listed(place)

    (place / "flow" / "echo.py").write_text(ECHO + "# edited\n")
    await run.wait_for("ready again")

    assert await listed(place) == before


async def test_nothing_is_left_of_drivers_when_the_run_stops(place: Path, runs: list[RunProcess]) -> None:
    run = await start(runs, place)
    await run.wait_for("ready in")
    await driver(place, "add", "second", "own:Asks", "--arg", "name=second")
    pidfds = [os.pidfd_open(told["os_pid"]) for told in (await listed(place)).values()]

    code = await run.stop()

    assert (code, len(pidfds)) == (exits.OK, 2)
    for pidfd in pidfds:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, 0)
        os.close(pidfd)
    assert (await driver(place, "ls")).returncode == exits.UNAVAILABLE
