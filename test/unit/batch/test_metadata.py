"""metadata.json of a run: what is known, what the model adds, and what of it is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.metadata import chosen_files, take_model_metadata, write_metadata
from runtime.batch.output import Budget, FoundFile, find_files
from runtime.batch.run import Reason, RunRecord, RunState, Times, Versions
from runtime.batch.workspace import Workspace
from runtime.spec.batch import BatchSpec

SPEC = BatchSpec(backend="command", command=("python", "run.py", "{input}"))
RECORD = RunRecord(
    run_id="r_flood_0",
    id="r",
    node="flood",
    slug="flood",
    state=RunState.STORING,
    exit_code=0,
    versions=Versions(model="2.4.0", connector="0.9.1"),
    times=Times(started=1_700_000_000_000, ended=1_700_000_001_500),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "r_flood_0")
    made.make(b"{}", shared=False)
    (made.output / "data.json").write_text("{}")
    (made.output / "a.csv").write_text("a")
    (made.output / "b.csv").write_text("bb")
    return made


def files_of(workspace: Workspace) -> list[FoundFile]:
    budget = Budget(100_000_000, 100)
    return [file for name in ("log", "input", "output") for file in find_files(workspace.root, name, budget).files]


def left_by(workspace: Workspace, values: Any) -> tuple[list[str], list[str]]:
    """Return the outputs that a model's metadata leaves, and what is unsafe in it."""
    workspace.metadata.write_text(json.dumps(values))
    kept, unsafe = chosen_files(take_model_metadata(workspace), workspace, files_of(workspace))
    return [file.path for file in kept if file.path.startswith("output/")], unsafe


def written(workspace: Workspace, record: RunRecord = RECORD, **named: Any) -> dict[str, Any]:
    model = take_model_metadata(workspace)
    write_metadata(workspace.metadata, record, SPEC, files_of(workspace), model, **named)
    values: dict[str, Any] = json.loads(workspace.metadata.read_text())
    return values


def test_every_field_is_there_without_a_word_of_the_model(workspace: Workspace) -> None:
    values = written(workspace)

    assert list(values) == [
        "runId", "slug", "image", "imageDigest", "command", "arguments", "version", "connectorVersion", "startedAt",
        "finishedAt", "exitCode", "signal", "status", "inputFiles", "outputFiles", "logFiles", "host", "error",
    ]  # fmt: skip
    assert (values["command"], values["arguments"]) == ("python", ["run.py", "{input}"])
    assert (values["startedAt"], values["finishedAt"]) == (
        "2023-11-14T22:13:20.000+00:00", "2023-11-14T22:13:21.500+00:00"
    )  # fmt: skip
    assert [file["path"] for file in values["outputFiles"]] == ["output/a.csv", "output/b.csv", "output/data.json"]
    assert values["inputFiles"][0]["size"] == 2
    assert (values["status"], values["error"]) == ("complete", None)


def test_a_failure_that_the_record_knows_is_told(workspace: Workspace) -> None:
    record = RECORD.changed(exit_code=3, reason=Reason.EXIT_CODE, detail="exit code 3")

    values = written(workspace, record, reason=Reason.INVALID_OUTPUT, detail="later")

    assert (values["status"], values["error"], values["exitCode"]) == ("failed", "exit code 3", 3)


def test_a_fault_of_the_outputs_is_told(workspace: Workspace) -> None:
    values = written(workspace, reason=Reason.INVALID_OUTPUT, detail="no JSON")

    assert (values["status"], values["error"]) == ("failed", "no JSON")


def test_what_the_model_says_besides_is_kept_and_what_is_known_is_not_overwritten(workspace: Workspace) -> None:
    workspace.metadata.write_text(json.dumps({"runId": "forged", "version": "0", "seed": 7}))

    values = written(workspace)

    assert (values["runId"], values["version"], values["seed"]) == ("r_flood_0", "2.4.0", 7)


def test_the_models_version_fills_a_missing_one(workspace: Workspace) -> None:
    record = RECORD.changed(versions=Versions(model="sha256:ab"))
    without = written(workspace, record)
    workspace.metadata.write_text(json.dumps({"version": "3.1", "command": "own"}))

    values = written(workspace, record)

    assert (without["version"], values["version"], values["command"]) == ("sha256:ab", "3.1", "python")


@pytest.mark.parametrize(
    "listed",
    [
        ["output/a.csv"],
        ["a.csv"],
        ["/data/output/a.csv"],
        ["./a.csv", "absent.csv"],
        [{"path": "output/a.csv", "size": 99}, 5, None],
        "output/a.csv",
    ],
    ids=str,
)
def test_the_models_list_wins_for_files_that_exist(workspace: Workspace, listed: Any) -> None:
    assert left_by(workspace, {"outputFiles": listed}) == (["output/a.csv", "output/data.json"], [])


@pytest.mark.parametrize("listed", [[], ["absent.csv"], None, 5, {}], ids=str)
def test_a_list_of_nothing_that_exists_leaves_all_files(workspace: Workspace, listed: Any) -> None:
    assert left_by(workspace, {"outputFiles": listed}) == (["output/a.csv", "output/b.csv", "output/data.json"], [])


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "a/../../input/x", ".."])
def test_a_list_that_leaves_the_folder_is_unsafe(workspace: Workspace, path: str) -> None:
    kept, unsafe = left_by(workspace, {"outputFiles": [path, "a.csv"]})

    assert kept == ["output/a.csv", "output/data.json"]
    assert unsafe == ["metadata.json lists output files that lie elsewhere"]


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"a": NaN}', b"\xff", b"[" * 100_000, b" " * (16 * 1024**2 + 1)],
    ids=["cut", "no object", "NaN", "no text", "nested", "too large"],
)  # fmt: skip
def test_a_broken_one_is_kept_among_the_logs_and_noted(workspace: Workspace, text: bytes) -> None:
    workspace.metadata.write_bytes(text)

    values = written(workspace)

    assert (workspace.log / "metadata.model.json").read_bytes() == text
    assert values["note"].startswith("the model's metadata.json is left out: ")
    assert [file["path"] for file in values["logFiles"]] == ["log/metadata.model.json"]


def test_a_link_in_its_place_is_not_read_through_and_is_found_as_unsafe(workspace: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": 1}')
    workspace.metadata.symlink_to(secret)

    values = written(workspace)

    assert "secret" not in values
    assert secret.read_text() == '{"secret": 1}'
    assert find_files(workspace.root, "log", Budget(1000, 10)).unsafe == (
        "log/metadata.model.json is a link that leaves the folder",
    )


def test_a_fifo_in_its_place_is_not_waited_for(workspace: Workspace) -> None:
    os.mkfifo(workspace.metadata)

    assert "note" in written(workspace)


def test_a_folder_in_its_place_is_put_aside(workspace: Workspace) -> None:
    workspace.metadata.mkdir()

    assert written(workspace)["runId"] == "r_flood_0"


def test_a_log_folder_that_is_a_link_is_not_written_into(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    workspace.log.rmdir()
    workspace.log.symlink_to(tmp_path / "elsewhere")
    workspace.metadata.write_bytes(b"{")

    written(workspace)

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_writing_it_again_gives_the_same(workspace: Workspace) -> None:
    workspace.metadata.write_text(json.dumps({"outputFiles": ["a.csv"], "seed": 7}))

    assert written(workspace) == written(workspace)
