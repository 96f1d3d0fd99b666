"""From a models file to processes: who shall run, and what an edit changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.deploy.fleet_plan import FleetTarget, changes, host_processes, same_model, spec_of
from runtime.deploy.process import Process, RestartRecord
from runtime.spec.models_file import DesiredModel, ModelsFile, Restarts

TARGET = FleetTarget(nats_servers=("nats://a:1", "nats://b:2"))
ALPHA = DesiredModel(
    id="m1", name="alpha", code=Path("/models/alpha"), resources=Path("/data"), class_name="tracker:Alpha",
    infos={"owner": "ann"}, memory_bytes=1024, restarts=Restarts(max=2, within_s=600),
)  # fmt: skip
BETA = DesiredModel(id="M_2", name="beta", code=Path("/models/beta"))
DIGESTS = {"m1": "aa", "M_2": "bb"}


def plan(*models: DesiredModel, quarantined: set[tuple[str, str]] | None = None, **digests: str) -> list[Process]:
    models_file = ModelsFile(cluster="bird-game", models=models)
    return host_processes(models_file, {**DIGESTS, **digests}, quarantined or set(), TARGET)


def changed(model: DesiredModel, **values: Any) -> DesiredModel:
    return model.model_copy(update=values)


def test_every_model_that_shall_run_has_a_host_that_is_told_of_it() -> None:
    alpha, beta = plan(ALPHA, BETA)

    spec = spec_of(alpha)
    assert (alpha.name, beta.name, alpha.arguments) == ("m1", "M_2", ("model",))
    assert (spec.cluster, spec.model_id, spec.name, spec.digest) == ("bird-game", "m1", "alpha", "aa")
    assert (spec.code, spec.resources, spec.class_name) == (Path("/models/alpha"), Path("/data"), "tracker:Alpha")
    assert (spec.infos, spec.memory_bytes, spec.max_restarts) == ({"owner": "ann"}, 1024, 2)
    assert alpha.environment["KRT_NATS_SERVER"] == "nats://a:1,nats://b:2"
    assert alpha.environment["KRT_NATS_INBOX_PREFIX"] == "_INBOX.bird-game.model_m1"


def test_a_model_that_shall_not_run_has_none() -> None:
    assert [process.name for process in plan(changed(ALPHA, desired="stopped"), BETA)] == ["M_2"]


def test_a_model_in_quarantine_has_none_until_its_digest_is_another() -> None:
    quarantined = {("m1", "aa"), ("M_2", "aa")}

    assert [process.name for process in plan(ALPHA, BETA, quarantined=quarantined)] == ["M_2"]
    assert [process.name for process in plan(ALPHA, quarantined=quarantined, m1="cc")] == ["m1"]


def test_a_host_is_given_up_after_its_restarts_and_at_once_where_another_would_end_the_same_way() -> None:
    policy = plan(ALPHA)[0].policy

    assert policy is not None
    record = RestartRecord(policy)
    delays = [record.note_exit(at_s=at_s, lived_s=100) for at_s in (100, 200)]
    assert (delays, record.crash_looping) == ([1.0, 2.0], False)
    record.note_exit(at_s=300, lived_s=100)
    assert record.crash_looping and policy.gives_up
    assert policy.final_exit_codes == {2, 3}


def test_a_model_has_its_own_credentials_or_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "bird-game" / "model.m1").mkdir(parents=True)
    models_file = ModelsFile(cluster="bird-game", models=(ALPHA, BETA))

    processes = host_processes(models_file, DIGESTS, set(), replace(TARGET, credentials=tmp_path))

    folders = [process.environment["KRT_NATS_CREDENTIALS"] for process in processes]
    assert folders == [str(tmp_path / "bird-game" / "model.m1"), str(tmp_path)]
    assert "KRT_NATS_CREDENTIALS" not in plan(ALPHA)[0].environment


def test_a_new_name_leaves_the_model_the_same() -> None:
    before, after = plan(ALPHA)[0], plan(changed(ALPHA, name="gamma", infos={}))[0]

    assert before != after
    assert same_model(before, after)


@pytest.mark.parametrize("values", [{"memory_bytes": 5}, {"class_name": ""}, {"code": Path("/other")}], ids=str)
def test_what_its_process_is_given_makes_it_another(values: dict[str, Any]) -> None:
    assert not same_model(plan(ALPHA)[0], plan(changed(ALPHA, **values))[0])


def test_other_code_makes_it_another() -> None:
    assert not same_model(plan(ALPHA)[0], plan(ALPHA, m1="cc")[0])


def test_what_changes_is_told_model_by_model() -> None:
    before = plan(ALPHA, BETA)
    third = changed(BETA, id="m3")

    assert changes(before, before) == []
    assert changes(before, plan(changed(ALPHA, name="x"), third, m3="dd")) == [
        "M_2: stopped",
        "m1: name and infos changed",
        "m3: started",
    ]
    assert changes(before, plan(ALPHA, BETA, m1="cc")) == ["m1: replaced"]
