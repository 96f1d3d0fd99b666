"""The files that a local run leaves: what is written is what is read, and a broken file says so."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cli.run_file import LastRun, ReplicaRecord, RunFile, RunNode, RunWorkflow, read_replicas, write_replicas
from runtime.errors import ConfigError

RUN = RunFile(
    nats="nats://127.0.0.1:4222",
    pid=os.getpid(),
    workflows={
        "hello": RunWorkflow(
            stream="local_dev_hello",
            folder="/flows/hello",
            runtime="local",
            version="dev",
            nodes={"greet": RunNode(durable="greet__entrypoint", replicas=2)},
        )
    },
)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    RUN.write(tmp_path)

    assert RunFile.read(tmp_path) == RUN
    assert [path.name for path in (tmp_path / ".krt").iterdir()] == ["run.json"]


def test_the_file_is_for_its_owner_alone_because_an_address_may_hold_a_password(tmp_path: Path) -> None:
    RUN.write(tmp_path)

    assert (tmp_path / ".krt" / "run.json").stat().st_mode & 0o077 == 0


def test_the_replicas_of_a_run_stand_in_a_file_by_name(tmp_path: Path) -> None:
    replicas = {
        "greet/1": ReplicaRecord(state="ready", pid=7, restarts=0),
        "greet/2": ReplicaRecord(state="backoff", pid=None, restarts=3, last_error="SIGKILL"),
    }

    write_replicas(tmp_path, replicas)

    assert json.loads((tmp_path / ".krt" / "processes.json").read_text()) == {
        "greet/1": {"state": "ready", "pid": 7, "restarts": 0, "last_error": ""},
        "greet/2": {"state": "backoff", "pid": None, "restarts": 3, "last_error": "SIGKILL"},
    }
    assert read_replicas(tmp_path) == replicas


def test_a_folder_without_a_run_has_no_replicas(tmp_path: Path) -> None:
    assert read_replicas(tmp_path) == {}


def test_replicas_that_cannot_be_read_are_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / ".krt").mkdir()
    (tmp_path / ".krt" / "processes.json").write_text('{"greet": {"status": "ready"}}')

    with pytest.raises(ConfigError, match=r"processes\.json cannot be read"):
        read_replicas(tmp_path)


def test_a_folder_without_a_run_has_none(tmp_path: Path) -> None:
    assert RunFile.read(tmp_path) is None


def test_removing_a_run_removes_both_files_and_may_be_repeated(tmp_path: Path) -> None:
    RUN.write(tmp_path)
    write_replicas(tmp_path, {})

    RunFile.remove(tmp_path)
    RunFile.remove(tmp_path)

    assert list((tmp_path / ".krt").iterdir()) == []


def test_what_runs_leave_outlives_them_and_is_added_up_for_one_store(tmp_path: Path) -> None:
    first, second = RUN.workflows["hello"], replace(RUN.workflows["hello"], stream="local_dev_other")
    LastRun(store=".krt/nats", workflows={"hello": first}).write(tmp_path)
    LastRun(store=".krt/nats", workflows={"other": second}).write(tmp_path)

    RunFile.remove(tmp_path)
    added_up = LastRun.read(tmp_path)
    LastRun(store="/elsewhere/nats", workflows={"other": second}).write(tmp_path)

    assert added_up == LastRun(store=".krt/nats", workflows={"hello": first, "other": second})
    assert LastRun.read(tmp_path) == LastRun(store="/elsewhere/nats", workflows={"other": second})


def test_a_broken_file_of_what_was_left_is_told_and_the_next_run_replaces_it(tmp_path: Path) -> None:
    (tmp_path / ".krt").mkdir()
    (tmp_path / ".krt" / "last.json").write_text('{"store": ".krt/nats"}')
    last = LastRun(store=".krt/nats", workflows=RUN.workflows)

    with pytest.raises(ConfigError, match=r"last\.json cannot be read"):
        LastRun.read(tmp_path)
    last.write(tmp_path)

    assert LastRun.read(tmp_path) == last


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nats": "x", "pid": 1, "workflows": []}'])
def test_a_broken_file_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / ".krt").mkdir()
    (tmp_path / ".krt" / "run.json").write_text(content)

    with pytest.raises(ConfigError, match=r"run\.json cannot be read .* start again what wrote it"):
        RunFile.read(tmp_path)
