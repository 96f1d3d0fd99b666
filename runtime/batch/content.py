"""The content hash of a command: what a model without a version, and without an image, is known by."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

# What of a file tells that it has changed: place, time and size.
_Stamp = tuple[int, int, int, int]


class ContentDigests:
    """Hashes files once, and again when they change: an interpreter has megabytes, and is part of every command."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Stamp, str]] = {}

    def of_command(self, program: Path, parts: Sequence[str], folder: Path) -> str:
        """Return `sha256:…` of the program, the words of the command, and the files in `folder` that they name.

        Blocking: call it in a thread.
        """
        digest = hashlib.sha256(self._of_file(program).encode())
        for part in parts:
            file = folder / part
            # Each with its length, so that ("a", "b") and ("ab",) differ.
            for text in (part, self._of_file(file) if _is_file(file) else ""):
                data = os.fsencode(text)
                digest.update(b"%d:" % len(data) + data)
        return f"sha256:{digest.hexdigest()}"

    def _of_file(self, path: Path) -> str:
        stat = path.stat()
        stamp = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, _hash(path))
        return known[1]


def _hash(path: Path) -> str:
    """Return the hash of a file; "" for one that may be executed, but not read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a null byte: a word, and no file
        return False
