"""A growing file of records, read by byte offsets: what came since, and whether it is still the same file.

Blocking; a record is a line, or in CSV as many lines as its quotes hold together. Nothing here parses a record.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Bytes read at once; doubled for a record that is longer, up to the largest one that is taken.
CHUNK_BYTES = 256 * 1024
MAX_RECORD_BYTES = 64 * 1024 * 1024
# Hex digits that tell one record from another.
DIGEST_DIGITS = 16

# Says whether some lines are a whole record.
IsWhole = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record ends, and what it was, which tells whether a file is the same after a restart.

    generation: how often the file was replaced or truncated before. offset: bytes from the start of the file to the
    end of the record; size_bytes and digest: of the record.
    """

    generation: int = 0
    offset: int = 0
    size_bytes: int = 0
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a source's position."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Record:
    """One record with its line break, and its end."""

    data: bytes
    place: Place


class RecordFile:
    """One path over time. `place` is where reading goes on."""

    def __init__(self, path: Path, is_whole: IsWhole = lambda lines: True, *, place: Place | None = None) -> None:
        """Prepare to read behind `place`, in the file it was in if that can be found."""
        self.path = path
        self.place = place or Place()
        self._is_whole = is_whole
        self._file = -1

    def open(self) -> str:
        """Open the file where reading goes on; returns what is to be told, "" if it is as it was left.

        That is the path, or the file beside it that it was renamed to (`in.jsonl.1`). Raises OSError.
        """
        self._file = os.open(self.path, os.O_RDONLY)
        if self._is_where_it_was(self._file):
            return ""
        renamed = self._find_renamed()
        if renamed is not None:
            os.close(self._file)
            self._file = renamed
            return "was replaced; the rest of the old one is read first"
        self._begin_anew()
        return "was replaced, and the old one is gone; it is read from its start"

    def close(self) -> None:
        """Close the file. Repeating it is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def first(self) -> bytes:
        """Return the first record of the file, b"" while it has none; CSV has the names of columns there."""
        return next(iter(self._split(self._read(0), at_end=False)), b"")

    def read(self, *, to_the_end: bool) -> list[Record]:
        """Return the next whole records, none when there is nothing more now.

        to_the_end: an unfinished last line is a record, too. Raises OSError; ValueError for a record without an end.
        """
        data = self._read(self.place.offset)
        records = self._split(data, at_end=to_the_end and not self._continues(data))
        return [Record(record, self._move(record)) for record in records]

    def renew(self) -> str:
        """Look for another file at the path, or a shorter or other content, and go on with that.

        To be called at the end of what there is. Returns what happened, "" for nothing. Raises OSError.
        """
        if not self._is_where_it_was(self._file):
            self._begin_anew()
            return "was truncated while it was read; it is read from its start"
        try:
            current = os.stat(self.path)
        except FileNotFoundError:  # between a rename and the new file
            return ""
        if os.path.samestat(current, os.fstat(self._file)):
            return ""
        self.close()
        self._file = os.open(self.path, os.O_RDONLY)
        self._begin_anew()
        return "was replaced; the new one is read from its start"

    def _begin_anew(self) -> None:
        self.place = Place(generation=self.place.generation + 1)

    def _is_where_it_was(self, file: int) -> bool:
        """Say whether the last record is still there; its bytes, for a file may be shortened and grow again."""
        before = self.place
        if before.offset == 0:
            return True
        data = os.pread(file, before.size_bytes, before.offset - before.size_bytes)
        return len(data) == before.size_bytes and _digest(data) == before.digest

    def _find_renamed(self) -> int | None:
        for candidate in sorted(self.path.parent.glob(f"{self.path.name}.*")):
            file = os.open(candidate, os.O_RDONLY) if candidate.is_file() else -1
            if file >= 0 and self._is_where_it_was(file):
                return file
            if file >= 0:
                os.close(file)
        return None

    def _read(self, offset: int) -> bytes:
        """Return a chunk with at least one record in it, or all that there is."""
        size_bytes = CHUNK_BYTES
        while True:
            data = os.pread(self._file, size_bytes, offset)
            if len(data) < size_bytes or self._split(data, at_end=False):
                return data
            if size_bytes >= MAX_RECORD_BYTES:
                raise ValueError(
                    f"a record at byte {offset} is longer than {MAX_RECORD_BYTES >> 20} MiB, or has no end"
                )
            size_bytes *= 2

    def _continues(self, data: bytes) -> bool:
        """Say whether the file goes on behind a chunk."""
        return os.fstat(self._file).st_size > self.place.offset + len(data)

    def _split(self, data: bytes, *, at_end: bool) -> list[bytes]:
        """Return the whole records in `data`; `at_end` the rest is one, too."""
        records, pending = [], b""
        for line in _lines(data):
            pending += line
            if line.endswith(b"\n") and self._is_whole(pending):
                records.append(pending)
                pending = b""
        if at_end and pending:
            records.append(pending)
        return records

    def _move(self, record: bytes) -> Place:
        self.place = Place(
            generation=self.place.generation,
            offset=self.place.offset + len(record),
            size_bytes=len(record),
            digest=_digest(record),
        )
        return self.place


def _lines(data: bytes) -> list[bytes]:
    """Return the lines up to each `\\n`; `splitlines` would also end them at a lone `\\r`."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]
