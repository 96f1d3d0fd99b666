"""What `krt model ls` shows, from hosts, fleets and the quarantine."""

from dataclasses import replace

from runtime.bus.presence import ServiceRecord
from runtime.models.listing import FleetModel, FleetRecord, ListedModel, listed
from runtime.models.quarantine import Quarantined
from runtime.models.wire import HostRecord, HostState

HOST = HostRecord(
    cluster="bird-game", model_id="m1", deployment="d1", name="alpha", state=HostState.RUNNING, infos={"owner": "ann"},
    instance=2, started_ms=1, now_ms=2, host="here", pid=7, restarts=1, reason="it has raised",
)  # fmt: skip
FLEET = FleetRecord(cluster="bird-game", instance="f1", host="here", pid=1, file="models.yml")


def test_a_present_model_is_as_its_host_tells_and_its_restarts_are_those_of_both_processes() -> None:
    fleet = replace(FLEET, models={"m1": FleetModel(name="alpha", state="running", restarts=3)})

    rows = listed([HOST], [fleet], [])

    assert rows == [
        ListedModel(
            id="m1", name="alpha", state="running", deployment="d1", instance=2, restarts=4, reason="it has raised",
            host="here", pid=7, infos={"owner": "ann"},
        )
    ]  # fmt: skip


def test_both_hosts_of_a_model_that_is_replaced_are_listed_the_older_first() -> None:
    newer = replace(HOST, deployment="d2", started_ms=9)

    rows = listed([newer, HOST], [], [])

    assert [row.deployment for row in rows] == ["d1", "d2"]


def test_a_model_without_a_host_is_as_its_fleet_tells() -> None:
    down = FleetModel(name="beta", state="failed", restarts=4, reason="ended with SIGKILL")

    rows = listed([HOST], [replace(FLEET, models={"m0": down})], [])

    assert [(row.id, row.state, row.restarts, row.reason) for row in rows] == [
        ("m0", "failed", 4, "ended with SIGKILL"),
        ("m1", "running", 1, "it has raised"),
    ]


def test_a_model_whose_process_runs_is_not_running_before_its_host_tells_so() -> None:
    up = FleetModel(name="beta", state="running")

    rows = listed([HOST], [replace(FLEET, models={"m1": FleetModel(name="alpha", state="running"), "m2": up})], [])

    assert [(row.id, row.state) for row in rows] == [("m1", "running"), ("m2", "starting")]


def test_a_model_in_quarantine_is_listed_without_a_fleet() -> None:
    entry = Quarantined(model_id="m9", digest="ab", reason="MULTIPLE_FAILED: it raised", at_ms=1)

    rows = listed([], [], [entry])

    assert [(row.id, row.state, row.reason) for row in rows] == [("m9", "quarantined", "MULTIPLE_FAILED: it raised")]


def test_a_corrected_model_that_runs_is_not_shown_as_quarantined() -> None:
    old = Quarantined(model_id="m1", digest="old", reason="BAD_IMPLEMENTATION", at_ms=1)

    assert [row.state for row in listed([HOST], [], [old])] == ["running"]


def test_a_fleet_is_read_from_what_it_announces() -> None:
    models = {"m1": {"name": "alpha", "state": "failed", "restarts": 4, "reason": "SIGKILL"}}
    record = replace(
        ServiceRecord.of_this_process("fleet", "bird-game"), metadata={"file": "/a/models.yml", "models": models}
    )

    fleet = FleetRecord.of("fleet.bird-game.f1", ServiceRecord.decode(record.encode()))

    assert (fleet.cluster, fleet.instance, fleet.file) == ("bird-game", "f1", "/a/models.yml")
    assert fleet.models == {"m1": FleetModel(name="alpha", state="failed", restarts=4, reason="SIGKILL")}
