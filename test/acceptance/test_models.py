"""`krt model` with real hosts: a fleet under permissions, a model that is renamed, and what is said of a mistake."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.nats import NatsBus
from runtime.models import DynamicSubclassModelConcurrentRunner
from test.acceptance.test_models_page import PATIENCE_S, Place
from test.support.guarded_nats import GuardedServer, guarded_server, krt

CLUSTER = "bird-game"
TRACKER = """
class Tracker:
    def predict(self): raise NotImplementedError
"""
ALPHA = """
from birdgame.tracker import Tracker

class Alpha(Tracker):
    def __init__(self):
        self.calls = 0

    def predict(self):
        self.calls += 1
        return self.calls
"""
MODELS = """
cluster: bird-game
models:
  - {id: m1, name: alpha, code: models/alpha, infos: {owner: ann}}
  - {id: m2, code: models/beta}
"""
BASE = "birdgame.tracker.Tracker"


@pytest.fixture
def place(tmp_path: Path, nats_server_binary: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.write("birdgame/tracker.py", TRACKER)
    place.write("models/alpha/main.py", ALPHA)
    place.write("models/beta/main.py", ALPHA)
    place.write("models.yml", MODELS)
    yield place
    if place.serving is not None:
        place.serving.kill()
        place.serving.wait()
        print(f"krt model serve:\n{place.log.read_text()}")


def listed(place: Place, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the models by their ids, as `krt model ls` tells, once they are as wanted."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        output = place.run("krt model ls --json")
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        models = {model["id"]: model for model in lines}
        if models and condition(models):
            return models
        assert time.monotonic() < deadline_s, output


def all_run(models: dict[str, Any]) -> bool:
    """Say whether both models are there by the word of their hosts; a fleet alone knows of no deployment."""
    return [(model["state"], bool(model["deployment"])) for model in models.values()] == [("running", True)] * 2


async def predictions(bus: NatsBus, count: int) -> list[dict[str, Any]]:
    """Call all models so many times, as a coordinator on this connection."""
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=10, crunch_id=CLUSTER, base_classname=BASE, connection=bus, report_failure=False
    )
    try:
        await runner.init(ready_timeout=60)
        answers = [await runner.call("predict") for _ in range(count)]
    finally:
        await runner.close()
    return [{model.model_id: answer.result for model, answer in each.items()} for each in answers]


@pytest.mark.timeout(180)
async def test_a_fleet_and_its_coordinator_work_under_their_permissions(
    place: Place, tmp_path: Path, nats_server_binary: Path
) -> None:
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, [tmp_path / "models.yml"])
    await guarded.start()
    try:
        place.environment["KRT_NATS_CREDENTIALS"] = str(credentials)
        place.serve("--nats", guarded.url)
        await asyncio.to_thread(listed, place, all_run)

        answers = await _predictions_of_coordinator(guarded, credentials)
        stopped = await asyncio.to_thread(place.run, "krt model stop m2")
        applied = await asyncio.to_thread(place.run, "krt model apply")
        released = await asyncio.to_thread(place.run, "krt model unquarantine m1")
        code = await asyncio.to_thread(place.stop)
    finally:
        await guarded.stop()

    assert answers == [{"m1": 1, "m2": 1}, {"m1": 2, "m2": 2}]
    assert (stopped, applied) == ("m2: stopped\n", "m2: started\n")
    assert released == "krt: the model m1 is not in quarantine\n"
    assert code == 0
    assert "Violation" not in guarded.log_tail(lines=2_000)


async def _predictions_of_coordinator(server: GuardedServer, credentials: Path) -> list[dict[str, Any]]:
    bus = await NatsBus.connect([server.url], name="coordinator", credentials=credentials / CLUSTER / "coordinator")
    try:
        return await predictions(bus, 2)
    finally:
        await bus.close()


@pytest.mark.timeout(180)
def test_a_rename_keeps_the_state_of_a_running_model(place: Place) -> None:
    place.serve("--port", place.port)
    before = listed(place, all_run)
    first = asyncio.run(_predictions(place))

    place.write("models.yml", MODELS.replace("alpha, code", "gamma, code").replace("ann", "bob"))
    after = listed(place, lambda models: models["m1"]["name"] == "gamma")
    second = asyncio.run(_predictions(place))

    assert after["m1"]["infos"] == {"owner": "bob"}
    assert after["m1"]["deployment"] == before["m1"]["deployment"]
    assert (first, second) == ([{"m1": 1, "m2": 1}], [{"m1": 2, "m2": 2}])
    assert place.stop() == 0


async def _predictions(place: Place) -> list[dict[str, Any]]:
    bus = await NatsBus.connect([f"nats://127.0.0.1:{place.port}"], name="coordinator")
    try:
        return await predictions(bus, 1)
    finally:
        await bus.close()


# --- mistakes ---


async def test_a_fleet_that_the_server_does_not_let_in_ends_at_once(
    place: Place, tmp_path: Path, nats_server_binary: Path
) -> None:
    guarded, credentials = guarded_server(tmp_path, nats_server_binary, [tmp_path / "models.yml"])
    await guarded.start()
    serve = ("model", "serve", "models.yml", "--nats", guarded.url)
    try:
        stranger = await asyncio.to_thread(krt, place.folder, *serve)
        model = await asyncio.to_thread(
            krt, place.folder, *serve, "--credentials", str(credentials / CLUSTER / "model.m1")
        )
    finally:
        await guarded.stop()

    assert (stranger.returncode, model.returncode) == (2, 2)
    assert "does not let us in" in stranger.stderr
    assert "krt permissions" in model.stderr and "Traceback" not in model.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("serve", 2, "name a models.yml, or one model: --cluster and --model-id and --code missing"),
        ("serve models.yml --cluster c", 2, "models.yml says which models there are; leave --cluster out"),
        ("serve none.yml", 2, "none.yml:1:1: the file cannot be read"),
        ("ls", 5, "no fleet runs here: start it with `krt model serve FILE`"),
        ("ls --nats nats://127.0.0.1:1", 2, "--nats says where to look; say with --cluster for which models"),
        ("ls --cluster c --nats nats://127.0.0.1:1", 5, 'cluster "c" cannot be reached'),
        ("logs m1", 1, "there is no log of a model m1 here"),
        ("apply bad.yml", 2, 'bad.yml:1:1: the file has no "models"; add one [missing-key]'),
    ],
)
def test_a_mistake_is_told_with_its_remedy(place: Place, arguments: str, code: int, told: str) -> None:
    place.write("bad.yml", "cluster: c\n")

    done = krt(place.folder, "model", *arguments.split())

    assert told in done.stderr
    assert done.returncode == code
