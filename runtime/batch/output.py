"""The files that a run leaves, found by looking at its folders after the end: what is safe to store, and what is not.

Everything in them is a model's doing. Nothing is followed or opened but regular files in the run's own folders.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime.batch.files import sha256_of, text_of

# What an entry may be instead of a file or a folder.
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file to store. path: in the run's folder, as text; location: where it lies; sha256: hex."""

    path: str
    location: Path
    size: int
    sha256: str


@dataclass(slots=True)
class Budget:
    """What all folders of a run may hold together; each one that is looked at uses some of it up."""

    bytes_left: int
    files_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What a folder holds. unsafe: a sentence for each entry that is not stored. limit: why there is no file, or ""."""

    files: tuple[FoundFile, ...] = ()
    unsafe: tuple[str, ...] = ()
    limit: str = ""


@dataclass(slots=True)
class _Look:
    """One folder while it is looked at."""

    root: Path
    sizes: dict[str, tuple[Path, int]] = field(default_factory=dict)
    unsafe: list[str] = field(default_factory=list)


class _OverBudget(Exception):
    """The folder holds more than a run may."""


def find_files(root: Path, name: str, budget: Budget) -> FoundFiles:
    """Look at the folder `name` of a run; a link to a file in it counts as that file. Blocking: it reads every file.

    A folder beyond the budget has no files at all, for nobody can say which of them matter. Raises OSError for files
    that vanish meanwhile, which nobody but another process of this user can do.
    """
    look = _Look(root / name)
    try:
        for path, entry in _entries(look, name):
            budget.files_left -= 1
            if (found := _as_file(look, path, entry)) is not None:
                look.sizes[path] = found
                budget.bytes_left -= found[1]
            if budget.files_left < 0:
                raise _OverBudget(f"{name} has more files than a run may leave")
            if budget.bytes_left < 0:
                raise _OverBudget(f"{name} has more bytes than a run may leave")
    except _OverBudget as error:
        return FoundFiles(unsafe=tuple(look.unsafe), limit=str(error))
    files = [_hashed(look, path, *found) for path, found in sorted(look.sizes.items())]
    return FoundFiles(files=tuple(file for file in files if file is not None), unsafe=tuple(look.unsafe))


def _entries(look: _Look, name: str) -> Iterator[tuple[str, Path]]:
    """Yield everything below the folder, with its path in the run's folder, but no folders."""
    if look.root.is_symlink() or not look.root.is_dir():
        look.unsafe.append(f"{name} is no folder any more")
        return
    # A list in place of recursion: a model may nest folders deeper than Python calls.
    waiting = [(name, look.root)]
    while waiting:
        path, folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    below = f"{path}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((below, Path(entry.path)))
                    yield below, Path(entry.path)
        except OSError as error:
            look.unsafe.append(f"{text_of(path)} cannot be read: {error.strerror}")


def _as_file(look: _Look, path: str, entry: Path) -> tuple[Path, int] | None:
    """Return where a file lies, and its size; None for what is none, which is noted where it is unsafe."""
    try:
        status = entry.lstat()
    except OSError as error:  # nested so deep that it has no name
        look.unsafe.append(f"{text_of(path)} cannot be read: {error.strerror}")
        return None
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return entry, status.st_size
    if kind == stat.S_IFLNK:
        return _behind_link(look, path, entry)
    if kind != stat.S_IFDIR:
        look.unsafe.append(f"{text_of(path)} is {_KINDS.get(kind, 'no file')}")
    return None


def _behind_link(look: _Look, path: str, link: Path) -> tuple[Path, int] | None:
    try:
        target = link.resolve(strict=True)
        inside = target.is_relative_to(look.root.resolve())
        status = target.lstat()
    except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
        look.unsafe.append(f"{text_of(path)} is a link that leads nowhere")
        return None
    if not inside:
        look.unsafe.append(f"{text_of(path)} is a link that leaves the folder")
        return None
    # What is behind a link to a folder is found there, and every other kind is told there.
    return (target, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _hashed(look: _Look, path: str, location: Path, size: int) -> FoundFile | None:
    try:
        return FoundFile(path=text_of(path), location=location, size=size, sha256=sha256_of(location))
    except PermissionError:
        look.unsafe.append(f"{text_of(path)} cannot be read: it is of another user")
        return None
