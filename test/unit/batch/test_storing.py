"""What is made of the folders that a run leaves: what is stored, who may have it, and what is wrong with it."""

import errno
import json
import os
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.artifacts import ArtifactStore
from runtime.batch.file_artifacts import FileArtifacts
from runtime.batch.run import Locations, Reason, RunRecord, RunState
from runtime.batch.schemas import Schema
from runtime.batch.storing import RunStoring
from runtime.batch.workspace import Workspace
from runtime.errors import StoreUnavailableError
from test.support.batch import batch_spec

RECORD = RunRecord(
    run_id="r1_flood_0", id="7", node="flood", slug="flood", state=RunState.STORING, exit_code=0,
    locations=Locations(store="file:///", results="runs/abc"),
)  # fmt: skip


class Left:
    """A run's folders, with a store in the file system."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder / "work" / RECORD.run_id)
        self.workspace.make(b'{"days": 3}', shared=False)
        self.store = folder / "store"
        self._schema: Schema | None = None

    def write(self, path: str, text: str = "{}") -> Path:
        file = self.workspace.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def storing(self, schema: Schema | None = None, **spec: Any) -> RunStoring:
        async def open_store() -> ArtifactStore:
            return FileArtifacts(self.store)

        return RunStoring(batch_spec(**spec), schema, open_store)

    def stored(self) -> list[str]:
        """Return the keys of what the store has, without what all begin with."""
        files = [path for path in self.store.rglob("*") if path.is_file() and "runs" in path.parts]
        return sorted(str(path.relative_to(self.store / "runs" / "abc")) for path in files)


@pytest.fixture
async def left(tmp_path: Path) -> AsyncIterator[Left]:
    yield Left(tmp_path)


async def test_what_went_well_is_public_as_the_node_says_and_all_else_private(left: Left) -> None:
    left.write("output/data.json")
    left.write("output/maps/a b.txt")
    left.write("log/model.log")

    stored = await left.storing().store(RECORD, left.workspace)

    assert (stored.reason, stored.export) == (None, "runs/abc/public/export.zip")
    assert {(file.path, file.visibility) for file in stored.artifacts} == {
        ("output/data.json", "public"),
        ("export.zip", "public"),
        ("output/maps/a b.txt", "private"),
        ("input/inputFile.json", "private"),
        ("log/model.log", "private"),
        ("metadata.json", "private"),
    }
    with zipfile.ZipFile(left.workspace.root / "export.zip") as archive:
        assert archive.namelist() == ["input/inputFile.json", "output/data.json", "output/maps/a b.txt"]


async def test_a_run_that_failed_is_stored_privately_without_a_look_at_its_data(left: Left) -> None:
    left.write("output/part.csv", "1,2")
    failed = RECORD.changed(reason=Reason.EXIT_CODE, exit_code=1, detail="exit code 1")

    stored = await left.storing().store(failed, left.workspace)

    assert stored.reason is None
    assert {file.visibility for file in stored.artifacts} == {"private"}
    metadata = json.loads(left.workspace.metadata.read_text())
    assert (metadata["status"], metadata["exitCode"], metadata["error"]) == ("failed", 1, "exit code 1")


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda left: None, "output/data.json is missing"),
        (lambda left: left.write("output/data.json", "{"), "output/data.json is no JSON: "),
        (lambda left: left.write("output/data.json", "[" * 100_000), "output/data.json is no JSON: "),
        (lambda left: left.write("output/data.json", '{"a": 1}'), "'sum' is a required property"),
    ],
    ids=["missing", "no JSON", "too deep", "not valid"],
)
async def test_a_data_json_that_is_none_fails_the_run(
    left: Left, tmp_path: Path, make: Callable[[Left], object], detail: str
) -> None:
    (tmp_path / "schema.json").write_text('{"required": ["sum"]}')
    make(left)

    stored = await left.storing(Schema.load(tmp_path / "schema.json")).store(RECORD, left.workspace)

    assert stored.reason is Reason.INVALID_OUTPUT
    assert stored.detail.startswith(f"Invalid model output JSON. Details: {detail}")
    assert "private/export.zip" in left.stored()


async def test_an_entry_that_is_not_safe_is_named_and_the_others_are_stored(left: Left, tmp_path: Path) -> None:
    left.write("output/data.json")
    (tmp_path / "secret").write_text("hush")
    (left.workspace.output / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(left.workspace.output / "pipe")

    stored = await left.storing().store(RECORD, left.workspace)

    assert stored.reason is Reason.UNSAFE_OUTPUT
    assert "output/link is a link that leaves the folder" in stored.detail
    assert "output/pipe is a FIFO" in stored.detail
    assert left.stored() == [
        "private/export.zip", "private/input/inputFile.json", "private/metadata.json", "private/output/data.json",
    ]  # fmt: skip


@pytest.mark.parametrize(("limits", "what"), [({"files": 3}, "files"), ({"output_bytes": 100}, "bytes")])
async def test_too_much_output_fails_the_run_and_keeps_its_logs(left: Left, limits: dict[str, int], what: str) -> None:
    left.write("output/data.json")
    left.write("log/model.log", "x")
    for number in range(5):
        left.write(f"output/{number}", "x" * 30)

    stored = await left.storing(limits=limits).store(RECORD, left.workspace)

    assert (stored.reason, stored.detail) == (Reason.OUTPUT_LIMIT, f"output has more {what} than a run may leave")
    assert "private/log/model.log" in left.stored()
    assert "private/metadata.json" in left.stored()


async def test_a_full_disk_is_told_and_what_there_is_is_stored(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    left.write("output/data.json")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runtime.batch.storing.write_archive", full)

    stored = await left.storing().store(RECORD, left.workspace)

    assert (stored.reason, stored.export) == (Reason.NO_SPACE, "")
    assert "private/output/data.json" in left.stored()


async def test_storing_twice_gives_the_same(left: Left) -> None:
    left.write("output/data.json")
    storing = left.storing()

    first = await storing.store(RECORD, left.workspace)
    second = await storing.store(RECORD, left.workspace)

    assert first == second


async def test_a_store_that_cannot_be_opened_is_tried_anew(left: Left) -> None:
    left.write("output/data.json")
    answers: list[Exception | None] = [StoreUnavailableError("no bucket"), None]

    async def open_store() -> ArtifactStore:
        if error := answers.pop(0):
            raise error
        return FileArtifacts(left.store)

    storing = RunStoring(batch_spec(), None, open_store)

    with pytest.raises(StoreUnavailableError):
        await storing.store(RECORD, left.workspace)
    stored = await storing.store(RECORD, left.workspace)

    assert stored.reason is None
