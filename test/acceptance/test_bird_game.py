"""workflows/bird-game as its README has it: the trackers served by one command, played with by another."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.stores.open import open_documents, open_points
from runtime.stores.prediction import COLLECTION
from test.support.guarded_nats import ROOT, environment
from test.support.ports import free_port

GAME = ROOT / "workflows" / "bird-game"
MODELS = ["drift", "moody", "scholar"]
# The port, and the pause between two rounds in seconds, that are written in the examples.
PORT, PAUSE = "8000", "sleep(30)"
# Seconds until all of a command has to be done, on a machine that does other things as well.
PATIENCE_S = 60.0


class Place:
    """A reader's folder, with the trackers served from it."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        self.port = port
        self.environment = environment(PYTHONPATH=os.pathsep.join((str(ROOT), str(GAME))), PYTHONUNBUFFERED="1")

    def run(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def example(self, name: str) -> "subprocess.Popen[str]":
        """Run an example as it is, but for its port and its pause."""
        text = (GAME / name).read_text()
        assert text.count(PORT) == 1
        copy = self.folder / name
        copy.write_text(text.replace(PORT, self.port).replace(PAUSE, "sleep(0.1)"))
        return self.run(str(copy))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, nats_server_binary: Path) -> Iterator[Place]:
    """The trackers of the example, all running."""
    place = Place(tmp_path_factory.mktemp("bird-game"), str(free_port()))
    serving = place.run("-m", "runtime", "model", "serve", str(GAME / "models.yml"), "--port", place.port)
    with ended_in_time(serving):
        assert serving.stdout is not None
        running: set[str] = set()
        while running != set(MODELS):
            line = serving.stdout.readline()
            assert line, f"ended with {running} running"
            if "the model is running" in line:
                running.add(line.split("|")[0].strip())
    # What hosts print later must not fill the pipe.
    reading = threading.Thread(target=serving.stdout.read)
    reading.start()
    yield place
    serving.send_signal(signal.SIGINT)
    assert serving.wait(PATIENCE_S) == 0
    reading.join()
    serving.stdout.close()


@contextmanager
def ended_in_time(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill a process that takes too long, so that reading what it prints comes to an end."""
    overdue = threading.Timer(PATIENCE_S, process.kill)
    overdue.start()
    try:
        yield
    finally:
        overdue.cancel()


def finished(process: "subprocess.Popen[str]") -> str:
    """Return what a process has printed when it has ended well."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


async def test_a_game_has_a_table_and_its_scores_are_stored(place: Place) -> None:
    output = finished(place.run(str(GAME / "play.py"), "--port", place.port, "--rounds", "25", "--pause", "0.05"))

    title, head, *rows = output.splitlines()
    cells = {row.split()[0].lower(): row.split() for row in rows}
    answers = {name: int(cells[name][3]) for name in MODELS}
    assert title == "round 25"
    assert head.split() == ["TRACKER", "WEALTH", "LIKELIHOOD", "OK", "FAILED", "TIMEOUT", "LAST"]
    assert sorted(cells) == MODELS
    assert (answers["drift"], answers["moody"]) == (25, 22)
    assert [int(cells[name][4]) for name in MODELS] == [0, 3, 0]
    assert 0 < int(cells["scholar"][5]) == 25 - answers["scholar"]
    assert sum(float(cells[name][1]) for name in MODELS) == pytest.approx(300, abs=0.2)

    store = f"sqlite:///{place.folder}/.krt/bird-game.db"
    documents, points = open_documents(store), open_points(store)
    try:
        predictions = await documents.find(COLLECTION, {})
        measured = await points.query("bird-game")
    finally:
        await documents.close()
        await points.close()
    # What was said last was never scored.
    scored = {name: sum(each["extra"]["model"] == name for each in predictions) for name in MODELS}
    assert {name: answers[name] - scored[name] for name in ("drift", "moody")} == {"drift": 1, "moody": 1}
    assert len(measured) == len(predictions)
    assert all(point.fields["wealth"] for point in measured)


def test_the_first_example_of_upstreams_readme_runs_until_it_is_interrupted(place: Place) -> None:
    process = place.example("coordinator.py")
    seen: dict[str, str] = {}
    with ended_in_time(process):
        assert process.stdout is not None
        while set(seen) != set(MODELS):
            line = process.stdout.readline()
            assert line
            seen[line.partition(":")[0]] = line

    process.send_signal(signal.SIGINT)

    output, _ = process.communicate(timeout=5)
    assert process.returncode == 0
    assert "Received exit signal" in output
    assert "Status.SUCCESS" in seen["drift"]
    assert "'loc': 19.164986723324326" in seen["drift"]


def test_the_second_example_gives_each_model_arguments_of_its_own(place: Place) -> None:
    output = finished(place.example("per_model_arguments.py"))

    lines = dict(line.split(": ", 1) for line in sorted(output.splitlines()))
    assert sorted(lines) == MODELS
    assert all("Status.SUCCESS" in line for line in lines.values())
