"""From the folders of a run that has ended to artifacts that a store has confirmed.

    look ─▶ metadata.json ─▶ validate ─▶ export.zip ─▶ put each file, and have it confirmed

What is wrong with the outputs is a finding, and no error: everything that is safe is stored all the same.
"""

import asyncio
import errno
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from runtime.batch.archive import write_archive
from runtime.batch.artifacts import ArtifactStore, artifact_key, visibility_of
from runtime.batch.files import open_regular, read_pieces, sha256_of
from runtime.batch.metadata import ModelMetadata, chosen_files, take_model_metadata, write_metadata
from runtime.batch.output import Budget, FoundFile, find_files
from runtime.batch.output_log import OutputLog
from runtime.batch.parts import Stored
from runtime.batch.run import Artifact, Reason, RunRecord
from runtime.batch.schemas import Schema
from runtime.batch.workspace import Workspace
from runtime.spec.batch import BatchSpec

EXPORT, METADATA, DATA = "export.zip", "metadata.json", "output/data.json"
# Largest data.json that is read to be validated: it is for other programs, and large results are files beside it.
MAX_DATA_BYTES = 256 * 1024**2

OpenStore = Callable[[], Awaitable[ArtifactStore]]


@dataclass(slots=True)
class _Findings:
    """What there is to store, and the first thing that is wrong with it."""

    files: list[FoundFile] = field(default_factory=list)
    reason: Reason | None = None
    detail: str = ""

    def blame(self, reason: Reason, detail: str) -> None:
        if self.reason is None:
            self.reason, self.detail = reason, detail

    def below(self, *folders: str) -> list[FoundFile]:
        return [file for file in self.files if file.path.split("/")[0] in folders]


class RunStoring:
    """See `parts.Storing`."""

    def __init__(self, spec: BatchSpec, schema: Schema | None, open_store: OpenStore) -> None:
        """schema: of `output/data.json`. open_store: called when there is something to store, until it succeeds."""
        self._spec = spec
        self._schema = schema
        self._open_store = open_store
        self._store: ArtifactStore | None = None

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()

    def open_log(self, workspace: Workspace) -> OutputLog:
        return OutputLog(workspace.log, self._spec.limits.log_bytes)

    async def store(self, record: RunRecord, workspace: Workspace) -> Stored:
        found = await asyncio.to_thread(self._look, record, workspace)
        is_complete = record.reason is None and found.reason is None
        artifacts = [await self._put(record, file, is_complete=is_complete) for file in found.files]
        results = record.locations.results
        exports = [artifact for artifact in artifacts if artifact.path == EXPORT]
        return Stored(
            artifacts=tuple(artifacts),
            export=artifact_key(results, exports[0].visibility, EXPORT) if exports else "",
            reason=found.reason,
            detail=found.detail,
        )

    async def _put(self, record: RunRecord, file: FoundFile, *, is_complete: bool) -> Artifact:
        visibility = visibility_of(file.path, self._spec.artifacts) if is_complete else "private"
        if self._store is None:
            self._store = await self._open_store()
        key = artifact_key(record.locations.results, visibility, file.path)
        await self._store.put(key, read_pieces(file.location), size=file.size, sha256=file.sha256)
        return Artifact(path=file.path, size=file.size, sha256=file.sha256, visibility=visibility)

    # --- in a thread ---

    def _look(self, record: RunRecord, workspace: Workspace) -> _Findings:
        found = _Findings()
        # Before the folders are looked at: one that cannot be used is put among the logs.
        model = take_model_metadata(workspace)
        self._find(found, workspace)
        found.files, unsafe = chosen_files(model, workspace, found.files)
        if unsafe:
            found.blame(Reason.UNSAFE_OUTPUT, "; ".join(unsafe))
        if record.reason is None:
            self._validate(found)
        self._add_metadata(found, record, workspace, model)
        self._add_export(found, workspace)
        return found

    def _find(self, found: _Findings, workspace: Workspace) -> None:
        limits = self._spec.limits
        budget = Budget(bytes_left=limits.output_bytes, files_left=limits.files)
        # The logs first: they are there whatever a model has written besides.
        for name in ("log", "output", "input"):
            folder = find_files(workspace.root, name, budget)
            found.files += folder.files
            if folder.unsafe:
                found.blame(Reason.UNSAFE_OUTPUT, "; ".join(folder.unsafe))
            if folder.limit:
                found.blame(Reason.OUTPUT_LIMIT, folder.limit)

    def _validate(self, found: _Findings) -> None:
        faults = self._faults(next((file for file in found.files if file.path == DATA), None))
        if faults:
            found.blame(Reason.INVALID_OUTPUT, f"Invalid model output JSON. Details: {'; '.join(faults)}")

    def _faults(self, data: FoundFile | None) -> list[str]:
        if data is None:
            return [f"{DATA} is missing"]
        if data.size > MAX_DATA_BYTES:
            return [f"{DATA} is larger than {MAX_DATA_BYTES // 1024**2} MiB"]
        try:
            with open_regular(data.location) as file:
                value = json.load(file)
        except (ValueError, RecursionError) as error:
            return [f"{DATA} is no JSON: {error}"]
        return self._schema.faults(value) if self._schema is not None else []

    def _add_metadata(self, found: _Findings, record: RunRecord, workspace: Workspace, model: ModelMetadata) -> None:
        reason, detail = found.reason, found.detail
        try:
            write_metadata(workspace.metadata, record, self._spec, found.files, model, reason=reason, detail=detail)
        except OSError as error:
            _blame_disk(found, error)
            return
        found.files.append(_made(METADATA, workspace))

    def _add_export(self, found: _Findings, workspace: Workspace) -> None:
        files = {file.path: file.location for file in found.below("input", "output")}
        try:
            write_archive(workspace.root / EXPORT, files)
        except OSError as error:
            _blame_disk(found, error)
            return
        found.files.append(_made(EXPORT, workspace))


def _made(name: str, workspace: Workspace) -> FoundFile:
    """Return a file that the runtime has made in the run's folder."""
    location = workspace.root / name
    return FoundFile(path=name, location=location, size=location.stat().st_size, sha256=sha256_of(location))


def _blame_disk(found: _Findings, error: OSError) -> None:
    """Note a full disk. Raises the error for anything else, which passes, or is ours."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise error
    found.blame(Reason.NO_SPACE, f"no room to pack the run's files: {error.strerror}")
