"""What a user does after Ctrl-C: look at what failed, correct it, give it back, and run again."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.cli import exits
from test.acceptance.test_run import Run, krt, write

# Looks that are going on, again and again, while a run starts and ends.
LOOKERS = 2
FAILS = "def handler(ctx, data: dict) -> dict:\n    return {'total': PRICES[data['item']]}\nPRICES = {'tea': 3}\n"
CORRECTED = FAILS.replace("'tea': 3", "'tea': 3, 'coffee': 4")


@pytest.fixture
def run(tmp_path: Path, nats_server_binary: Path) -> Iterator[Callable[[], Run]]:
    """Start `krt run flow` in the test's folder, and return it once it is ready."""
    runs: list[Run] = []
    (tmp_path / "flow").mkdir()
    write(tmp_path / "flow", "nodes: [{name: price, handler: price.py, retry: {attempts: 1}}]", price=FAILS)

    def start() -> Run:
        runs.append(Run(tmp_path, "flow"))
        runs[-1].wait_for("^ready in ")
        return runs[-1]

    yield start
    for each in runs:
        each.end()


def letters(place: Path) -> list[str]:
    """Return what became dead letters, as `krt dlq ls` tells it."""
    listed = krt(place, "dlq", "ls", "--json")
    assert listed.returncode == exits.OK, listed.stderr
    return [json.loads(line)["error"] for line in listed.stdout.splitlines()]


def test_a_dead_letter_is_looked_at_corrected_and_redriven_between_two_runs(
    run: Callable[[], Run], tmp_path: Path
) -> None:
    first = run()
    assert first.send('{"item": "coffee"}').returncode == exits.FAILED
    assert first.stop() == exits.OK

    shown = krt(tmp_path, "dlq", "show", "1")
    (tmp_path / "flow" / "price.py").write_text(CORRECTED)
    repeated = krt(tmp_path, "repro", "1")
    redriven = krt(tmp_path, "dlq", "redrive", "1")
    second = run()
    answered = second.answer('{"item": "tea"}')
    assert second.stop() == exits.OK
    sent = krt(tmp_path, "peek", "price", "--json")

    assert "KeyError: 'coffee'" in shown.stdout
    assert shown.stderr == f"no run of flow is alive; reading what the last one left in {tmp_path}/.krt/nats\n"
    assert (repeated.returncode, redriven.stdout) == (exits.OK, "redriven 1\n")
    assert answered == {"total": 3}
    assert letters(tmp_path) == []
    values = [message["value"] for line in sent.stdout.splitlines() if (message := json.loads(line))["type"] == "OK"]
    assert sorted(value["total"] for value in values) == [3, 4]


def test_a_run_that_was_killed_is_looked_at(run: Callable[[], Run], tmp_path: Path) -> None:
    killed = run()
    assert killed.send('{"item": "coffee"}').returncode == exits.FAILED
    killed.stop(signal.SIGKILL)

    assert letters(tmp_path) == ["KeyError: 'coffee'"]


def test_looking_all_through_the_start_and_the_end_of_a_run_harms_neither(
    run: Callable[[], Run], tmp_path: Path
) -> None:
    first = run()
    assert first.send('{"item": "coffee"}').returncode == exits.FAILED
    assert first.stop() == exits.OK

    enough = threading.Event()
    with ThreadPoolExecutor(LOOKERS) as threads:
        looks = [threads.submit(look_until, enough, tmp_path) for _ in range(LOOKERS)]
        second = run()
        answered = second.answer('{"item": "tea"}')
        ended = second.stop()
        enough.set()
    codes = [code for look in looks for code in look.result()]

    assert (answered, ended) == ({"total": 3}, exits.OK)
    assert set(codes) <= {exits.OK, exits.UNAVAILABLE}
    assert letters(tmp_path) == ["KeyError: 'coffee'"]


def look_until(enough: threading.Event, place: Path) -> list[int]:
    """Look again and again, and return the exit codes."""
    codes = []
    while not enough.is_set():
        codes.append(krt(place, "dlq", "ls").returncode)
    return codes
