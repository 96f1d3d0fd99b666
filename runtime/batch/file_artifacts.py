"""Artifacts in a folder: each is a file below it, under its key. For one machine, or a file system that all share."""

import asyncio
import errno
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import TypeVar

from runtime.batch.artifacts import ArtifactNotFoundError, StoredArtifact, check_key, checked, confirmed
from runtime.batch.files import PIECE_BYTES, open_regular, sha256_of
from runtime.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

# Folder of what is not whole yet; no key begins with it.
INCOMING = ".incoming"
# Seconds after which such a file is what a dead process has left, when the same artifact is put again.
LEFT_BEHIND_S = 3600.0
# What passes when somebody makes room, or when a network's file system is back.
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE})


class FileArtifacts:
    """See `artifacts.ArtifactStore`. Hashes are those of the files as they are, so `stat` and `list` read them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, pieces: AsyncIterable[bytes], *, size: int, sha256: str) -> StoredArtifact:
        target = self._path(key)
        incoming = await _in_thread(self._incoming, key)
        try:
            await self._write(incoming, checked(key, pieces, size=size, sha256=sha256))
            # Read back before it replaces anything.
            arrived = await _in_thread(_describe, key, incoming)
            stored = confirmed(arrived, size=size, sha256=sha256)
            await _in_thread(_move, incoming, target)
        finally:
            incoming.unlink(missing_ok=True)
        return stored

    async def stat(self, key: str) -> StoredArtifact:
        return await _in_thread(_describe, key, self._path(key))

    async def get(self, key: str) -> AsyncIterator[bytes]:
        file = await _in_thread(_open, key, self._path(key))
        try:
            while piece := await _in_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        await _in_thread(self._remove, self._path(key))

    async def list(self, prefix: str = "") -> Sequence[StoredArtifact]:
        return await _in_thread(self._list, prefix)

    async def close(self) -> None:
        """Nothing stays open."""

    def _path(self, key: str) -> Path:
        check_key(key)
        if key.partition("/")[0] == INCOMING:
            raise StoreError(f"{key!r} is no key: {INCOMING} is the store's own")
        return self._root / key

    def _incoming(self, key: str) -> Path:
        """Return a new file's path, after the removal of what died on the way to this key."""
        folder = self._root / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        for left in folder.glob(f"{name}.*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - LEFT_BEHIND_S:
                    left.unlink()
        return folder / f"{name}.{secrets.token_hex(8)}"

    async def _write(self, path: Path, pieces: AsyncIterator[bytes]) -> None:
        file = await _in_thread(path.open, "xb")
        try:
            async for piece in pieces:
                await _in_thread(file.write, piece)
            await _in_thread(_flush, file)
        finally:
            with _translated():
                file.close()

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the first folder that holds something else, or is gone
            for folder in path.parents:
                if folder == self._root:
                    break
                folder.rmdir()

    def _list(self, prefix: str) -> Sequence[StoredArtifact]:
        found = []
        # Of `a/b/c`, only what lies in `a/b`.
        for folder, _, names in os.walk(self._root / prefix.rpartition("/")[0]):
            keys = [(Path(folder) / name).relative_to(self._root).as_posix() for name in names]
            found += [key for key in keys if key.startswith(prefix) and not key.startswith(f"{INCOMING}/")]
        return [_describe(key, self._root / key) for key in sorted(found)]


def _describe(key: str, path: Path) -> StoredArtifact:
    try:
        return StoredArtifact(key=key, size=path.stat().st_size, sha256=sha256_of(path))
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"there is no artifact {key!r}") from error


def _open(key: str, path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"there is no artifact {key!r}") from error


def _flush(file: BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    # The name is on the disk only when the folder is.
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    with _translated():
        return await asyncio.to_thread(function, *arguments)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the system into those of stores."""
    try:
        yield
    except OSError as error:
        kind = StoreUnavailableError if error.errno in _PASSING else StoreError
        raise kind(f"the folder of artifacts does not take it: {error}") from error
