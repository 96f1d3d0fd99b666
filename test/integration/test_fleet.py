"""A fleet keeps hosts as its file wants them: real processes in place of hosts, a bus in memory."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import CoreMessage
from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.bus.presence import Heartbeat, PresenceSet, ServiceRecord
from runtime.clock import SystemClock
from runtime.deploy.fleet import Fleet
from runtime.deploy.fleet_file import FleetFile
from runtime.deploy.fleet_plan import FleetTarget
from runtime.deploy.process import State
from runtime.deploy.supervisor import Supervisor
from runtime.errors import BusUnavailableError
from runtime.models.listing import FleetModel, FleetRecord
from runtime.models.quarantine import Quarantine, Quarantined
from runtime.models.wire import HostRecord, HostState
from runtime.spec import names

CLUSTER = "bird-game"
# In place of a host: ends at once with the code in the file `<its folder>.exit`, else when it is asked to.
HOST = """
import json, os, pathlib, signal, sys
exit_file = pathlib.Path(json.loads(os.environ["KRT_MODEL_SPEC"])["code"] + ".exit")
if exit_file.exists():
    sys.exit(int(exit_file.read_text()))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
signal.pause()
"""
PATIENCE_S = 20.0


class Place:
    """A folder with models, and the fleet that keeps them."""

    def __init__(self, folder: Path, bus: MemoryBus) -> None:
        self.folder = folder
        self.bus = bus
        self.up = asyncio.Event()
        self.supervisor = Supervisor(on_line=lambda name, line: self.up.set(), command=(sys.executable, "-c", HOST))
        self.fleet: Fleet | None = None

    def write(self, *models: dict[str, Any]) -> None:
        """Write the models file, and the folders that its models have by default."""
        for model in models:
            model.setdefault("code", model["id"])
            (self.folder / model["code"]).mkdir(exist_ok=True)
        draft = self.folder / "models.yml.new"
        draft.write_text(json.dumps({"cluster": CLUSTER, "models": models}))
        draft.replace(self.folder / "models.yml")

    def edit(self, model_id: str, text: str) -> None:
        (self.folder / model_id / "tracker.py").write_text(text)

    def end_with(self, model_id: str, code: int | None) -> None:
        """Let hosts of the model end at once with a code, or work."""
        file = self.folder / f"{model_id}.exit"
        file.unlink(missing_ok=True) if code is None else file.write_text(str(code))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Fleet]:
        file = FleetFile(self.folder / "models.yml")
        async with self.supervisor, asyncio.TaskGroup() as group:
            fleet = Fleet(file, self.supervisor, self.bus, FleetTarget(nats_servers=("nats://x",)), SystemClock())
            running = group.create_task(fleet.run())
            yield fleet
            running.cancel()

    def states(self) -> dict[str, State]:
        return {status.process: status.state for status in self.supervisor.states()}

    def pid(self, model_id: str) -> int | None:
        return next(status.pid for status in self.supervisor.states() if status.process == model_id)

    async def reach(self, condition: Callable[[dict[str, State]], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.supervisor.wait_until(lambda _: condition(self.states()))
        except TimeoutError:
            pytest.fail(f"not reached: {self.supervisor.states()}")

    async def told(self, condition: Callable[[FleetRecord], bool]) -> FleetRecord:
        """Return what the fleet announces of itself, once it is as wanted."""
        heard: asyncio.Queue[FleetRecord] = asyncio.Queue()

        def on_change(key: str, record: ServiceRecord | None) -> None:
            if record is not None:
                heard.put_nowait(FleetRecord.of(key, record))

        keys = names.presence_key(names.FLEET, CLUSTER, "*")
        watching = await PresenceSet.open(self.bus, names.PRESENCE_BUCKET, keys, SystemClock(), on_change=on_change)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition(record := await heard.get()):
                    continue
                return record
        finally:
            await watching.close()


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return Place(tmp_path, MemoryBroker(SystemClock()).connect())


def run(*ids: str) -> Callable[[dict[str, State]], bool]:
    return lambda states: states == dict.fromkeys(ids, State.RUNNING)


# --- the file ---


async def test_models_of_the_file_run_and_those_that_shall_not_do_not(place: Place) -> None:
    place.write({"id": "m1"}, {"id": "m2", "desired": "stopped"})

    async with place.serving():
        await place.reach(run("m1"))
        told = await place.told(lambda fleet: "m1" in fleet.models and fleet.models["m1"].state == "running")

    assert told.models == {"m1": FleetModel(name="m1", state="running"), "m2": FleetModel(name="m2", state="stopped")}
    assert told.file == str(place.folder / "models.yml")


async def test_an_edit_starts_and_stops_models_and_leaves_the_others_alone(place: Place) -> None:
    place.write({"id": "m1"}, {"id": "m2"})

    async with place.serving():
        await place.reach(run("m1", "m2"))
        pid = place.pid("m1")
        place.write({"id": "m1"}, {"id": "m3"})
        await place.reach(run("m1", "m3"))

        assert place.pid("m1") == pid


async def test_a_bad_file_keeps_the_last_good_one_and_is_told(place: Place) -> None:
    place.write({"id": "m1"})

    async with place.serving():
        await place.reach(run("m1"))
        pid = place.pid("m1")
        place.write({"id": "m1", "codes": "x"})
        told = await place.told(lambda fleet: fleet.problem != "")
        kept = place.pid("m1")
        place.write({"id": "m1"}, {"id": "m2"})
        await place.reach(run("m1", "m2"))
        corrected = await place.told(lambda fleet: len(fleet.models) == 2)

    assert 'has no key "codes"' in told.problem
    assert kept == pid
    assert corrected.problem == ""


async def test_another_cluster_needs_another_fleet(place: Place) -> None:
    place.write({"id": "m1"})

    async with place.serving() as fleet:
        (place.folder / "models.yml").write_text("cluster: other\nmodels: []\n")
        answer = await fleet.apply()
        await place.reach(run("m1"))

    assert answer["changes"] == []
    assert "the cluster was bird-game" in answer["problems"][0]


async def test_edited_code_replaces_a_model_when_it_is_applied(place: Place) -> None:
    place.write({"id": "m1"}, {"id": "m2"})

    async with place.serving() as fleet:
        await place.reach(run("m1", "m2"))
        pids = place.pid("m1"), place.pid("m2")
        place.edit("m1", "rate = 2")
        answer = await fleet.apply()
        await place.reach(run("m1", "m2"))

        assert answer == {"changes": ["m1: replaced"], "problems": []}
        assert place.pid("m1") != pids[0] and place.pid("m2") == pids[1]


async def test_whoever_asks_over_nats_is_told_what_has_changed(place: Place) -> None:
    place.write({"id": "m1"})

    async with place.serving() as fleet:
        await place.reach(run("m1"))
        place.edit("m1", "rate = 2")
        subject = names.fleet_subject(CLUSTER, fleet.instance, "apply")
        answer = await place.bus.request(subject, b"", timeout_s=PATIENCE_S)

    assert json.loads(answer.data) == {"changes": ["m1: replaced"], "problems": []}


# --- ends ---


async def test_a_killed_host_is_started_again(place: Place) -> None:
    place.write({"id": "m1"})

    async with place.serving():
        await place.reach(run("m1"))
        os.kill(place.pid("m1") or 0, signal.SIGKILL)
        await place.reach(lambda states: states == {"m1": State.BACKOFF})
        await place.reach(run("m1"))
        await place.told(lambda fleet: fleet.models["m1"] == FleetModel(name="m1", state="running", restarts=1))


async def test_a_host_that_was_asked_to_stop_stays_stopped_until_the_file_is_applied(place: Place) -> None:
    place.write({"id": "m1"})

    async with place.serving() as fleet:
        async with asyncio.timeout(PATIENCE_S):
            await place.up.wait()
        # As its answer to `stop` ends it.
        os.kill(place.pid("m1") or 0, signal.SIGTERM)
        await place.reach(lambda states: states["m1"] is State.STOPPED)
        place.write({"id": "m1"}, {"id": "m2"})
        await place.reach(lambda states: states.get("m2") is State.RUNNING)
        stopped = place.states()["m1"]
        answer = await fleet.apply()
        await place.reach(run("m1", "m2"))

    assert stopped is State.STOPPED
    assert answer["changes"] == ["m1: started"]


async def test_a_model_whose_restarts_are_used_up_has_failed_until_the_file_is_applied(place: Place) -> None:
    place.write({"id": "m1", "restarts": {"max": 1}})
    place.end_with("m1", 1)

    async with place.serving() as fleet:
        await place.reach(lambda states: states == {"m1": State.FAILED})
        told = await place.told(lambda fleet: fleet.models["m1"].state == "failed")
        place.end_with("m1", None)
        await fleet.apply()
        await place.reach(run("m1"))

    assert told.models["m1"] == FleetModel(name="m1", state="failed", restarts=1, reason="ended with exit code 1")


# --- quarantine ---


async def test_a_reported_model_is_quarantined_until_its_code_changes(place: Place) -> None:
    place.write({"id": "m1"})
    place.end_with("m1", 3)

    async with place.serving() as fleet:
        told = await place.told(lambda fleet: fleet.models["m1"].state == "quarantined")
        await place.reach(lambda states: states == {})
        place.end_with("m1", None)
        again = await fleet.apply()
        place.edit("m1", "rate = 2")
        corrected = await fleet.apply()
        await place.reach(run("m1"))
        entries = await (await Quarantine.open(place.bus, CLUSTER)).all()

    assert told.models["m1"].reason == "a coordinator has reported it"
    assert again == {"changes": [], "problems": []}
    assert corrected == {"changes": ["m1: started"], "problems": []}
    assert [entry.model_id for entry in entries] == ["m1"]


async def test_a_quarantined_model_is_not_started_by_the_next_fleet(tmp_path: Path) -> None:
    bus = MemoryBroker(SystemClock()).connect()
    place, later = Place(tmp_path, bus), Place(tmp_path, bus)
    place.write({"id": "m1"})
    place.end_with("m1", 3)
    async with place.serving():
        await place.told(lambda fleet: fleet.models["m1"].state == "quarantined")

    async with later.serving():
        told = await later.told(lambda fleet: fleet.models["m1"].state == "quarantined")

    assert told.models["m1"].restarts == 0
    assert later.states() == {}


async def test_a_released_model_is_started_at_once(place: Place) -> None:
    place.write({"id": "m1"})
    place.end_with("m1", 3)

    async with place.serving():
        await place.told(lambda fleet: fleet.models["m1"].state == "quarantined")
        await place.reach(lambda states: states == {})
        place.end_with("m1", None)
        lifted = await (await Quarantine.open(place.bus, CLUSTER)).release("m1")
        await place.reach(run("m1"))

    assert [entry.model_id for entry in lifted] == ["m1"]


async def test_without_nats_the_file_holds_on_and_so_does_the_quarantine_as_it_was_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(quarantine: Quarantine) -> list[Quarantined]:
        raise BusUnavailableError("no answer")

    place.write({"id": "m1"}, {"id": "m2"})
    place.end_with("m1", 3)

    async with place.serving():
        await place.told(lambda fleet: fleet.models["m1"].state == "quarantined")
        await place.reach(run("m2"))
        place.end_with("m1", None)
        monkeypatch.setattr(Quarantine, "all", unavailable)
        place.write({"id": "m1"}, {"id": "m3"})
        await place.reach(run("m3"))


# --- names and infos ---


async def test_a_new_name_is_told_to_the_running_host_and_leaves_its_state_alone(place: Place) -> None:
    place.write({"id": "m1", "name": "alpha", "infos": {"owner": "ann"}})
    asked: asyncio.Queue[CoreMessage] = asyncio.Queue()
    await place.bus.subscribe(names.model_subject(CLUSTER, "m1", "d1", "infos"), asked.put_nowait)

    async with place.serving():
        await place.reach(run("m1"))
        pid = place.pid("m1")
        async with announced(place, pid or 0):
            place.write({"id": "m1", "name": "beta", "infos": {"owner": "bob"}})
            async with asyncio.timeout(PATIENCE_S):
                request = await asked.get()
            place.bus.send(request.reply, b"{}")

        assert json.loads(request.data) == {"name": "beta", "infos": {"owner": "bob"}}
        assert place.pid("m1") == pid


@asynccontextmanager
async def announced(place: Place, pid: int) -> AsyncIterator[None]:
    """Tell of a host as it does itself."""
    record = ServiceRecord.of_this_process(names.MODEL, "m1")
    host = HostRecord(
        cluster=CLUSTER, model_id="m1", deployment="d1", name="alpha", state=HostState.RUNNING,
        infos={"owner": "ann"}, instance=1, started_ms=1, now_ms=1, host=record.host, pid=pid,
    )  # fmt: skip
    record = replace(record, pid=pid, metadata=host.metadata())
    key = names.presence_key(names.MODEL, CLUSTER, "m1", "d1")
    async with Heartbeat(place.bus, names.PRESENCE_BUCKET, key, lambda: record, SystemClock()):
        yield
