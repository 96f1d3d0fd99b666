"""The stored files of a run: which there are, and copies of them in a folder here."""

import asyncio
import fnmatch
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import errors
from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import ArtifactStore, artifact_key
from runtime.batch.run import Artifact, RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.bus.base import Bus

# What a file is called until it is complete.
PARTIAL = ".part"
VISIBILITIES = ("public", "private")

# Bytes of a file that have come since the last call.
OnBytes = Callable[[int], None]


class RunFiles:
    """The files of one run, in the store that its record names."""

    def __init__(self, record: RunRecord, store: ArtifactStore) -> None:
        self._record = record
        self._store = store

    async def list(self) -> Sequence[Artifact]:
        """Return every file, sorted by path; a record names the first thousand, and the store the rest."""
        found = {each.path: each for each in self._record.artifacts}
        if self._record.left_out:
            for visibility in VISIBILITIES:
                await self._add_stored(f"{self._record.locations.results}/{visibility}/", visibility, found)
        return [found[path] for path in sorted(found)]

    async def _add_stored(self, prefix: str, visibility: str, found: dict[str, Artifact]) -> None:
        for each in await self._store.list(prefix):
            path = each.key.removeprefix(prefix)
            artifact = Artifact.model_validate(
                {"path": path, "size": each.size, "sha256": each.sha256, "visibility": visibility}
            )
            found.setdefault(path, artifact)

    def pieces(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """Read a file. Raises StoreError, see `ArtifactStore.get`."""
        return self._store.get(artifact_key(self._record.locations.results, artifact.visibility, artifact.path))

    async def download(self, artifact: Artifact, folder: Path, on_bytes: OnBytes) -> bool:
        """Copy a file below a folder, and say whether it had to be fetched: one that is there is only checked.

        It is there as a whole or not at all. Raises StoreError, also for other bytes than the record names, OSError,
        ConfigError for a path that leads out of the folder.
        """
        place = place_of(artifact.path, folder)
        if await asyncio.to_thread(_is_there, place, artifact):
            on_bytes(artifact.size)
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        with _complete_or_removed(place) as partial, partial.open("xb") as file:
            digest = hashlib.sha256()
            async for piece in self.pieces(artifact):
                # In a thread: a disk that is busy must not hold up the connection.
                await asyncio.to_thread(file.write, piece)
                digest.update(piece)
                on_bytes(len(piece))
            if digest.hexdigest() != artifact.sha256:
                raise errors.StoreError(f"{artifact.path} is not what was stored: its SHA-256 is {digest.hexdigest()}")
        return True


@asynccontextmanager
async def opened(bus: "Bus", stream: str, record: RunRecord) -> AsyncIterator[RunFiles]:
    """Open the store of a run. Raises NotFoundError for a run that has stored nothing, StoreError, ConfigError."""
    if not record.locations.results or not record.artifacts:
        raise errors.NotFoundError(f"run '{record.run_id}' has stored no files: it is {record.state}")
    store = await open_store(record.locations.store, bus=bus, stream=stream)
    try:
        yield RunFiles(record, store)
    finally:
        await store.close()


def chosen(artifacts: Sequence[Artifact], pattern: str) -> Sequence[Artifact]:
    """Return the files that a path, a folder or a pattern names; all of them for "". Raises NotFoundError."""
    found = [each for each in artifacts if _fits(each.path, pattern)]
    if not found:
        raise errors.NotFoundError(f"no file fits '{pattern}'; `krt runs artifacts` shows those that there are")
    return found


def _fits(path: str, pattern: str) -> bool:
    return not pattern or path.startswith(f"{pattern.rstrip('/')}/") or fnmatch.fnmatchcase(path, pattern)


def place_of(path: str, folder: Path) -> Path:
    """Return where a stored path belongs below a folder. Raises ConfigError for one that leads out of it."""
    place = folder / path
    if place.is_absolute() != folder.is_absolute() or not _below(place, folder):
        raise errors.ConfigError(f"'{path}' leads out of {folder}, and is not written")
    return place


def _below(place: Path, folder: Path) -> bool:
    """Say whether a path stays in a folder, links that are there already followed."""
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)) and place != folder


def _is_there(place: Path, artifact: Artifact) -> bool:
    if not place.is_file() or place.stat().st_size != artifact.size:
        return False
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256


@contextmanager
def _complete_or_removed(place: Path) -> "Iterator[Path]":
    """Give a path to write to, which becomes `place` in the end, and is removed after an error."""
    partial = place.with_name(f"{place.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
