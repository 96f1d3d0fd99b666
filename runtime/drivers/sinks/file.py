"""Sink `file`: outputs as JSON lines, in files that are rotated."""

import os
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from runtime.drivers.flow import Bytes, Item, NotConnected, Seconds, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes

# Bytes read at once while the last line of a file is looked for.
TAIL_BYTES = 64 * 1024


class FileParameters(SinkParameters):
    """Parameters of `file`."""

    path: Path = Field(description="The file; its folder is made if it is missing.")
    with_item: bool = Field(False, description="Write {request_id, source, state_id, metadata, …, output}.")
    rotate_bytes: Bytes = Field(100 * 1024 * 1024, ge=0, description="Begin a new file above this size; 0 for never.")
    rotate_every: Seconds = Field(
        0.0, ge=0, description="Begin a new file after so long, if there is output; 0s never."
    )
    keep: int = Field(
        0, ge=0, description="Rotated files that are kept, of which out.jsonl.1 is the oldest; 0 for all."
    )


class FileSink(Sink):
    """Appends each output to a file as one line of JSON. What is written survives a kill of the process."""

    parameters = FileParameters
    params: FileParameters
    _file = -1
    _size_bytes = 0
    _opened_s = 0.0

    def open(self) -> None:
        self.params.path.parent.mkdir(parents=True, exist_ok=True)
        self._begin()

    def write(self, outputs: Any, item: Item) -> None:
        line = json_bytes(record_of(outputs, item) if self.params.with_item else outputs) + b"\n"
        if self._size_bytes and self._is_due(len(line)):
            self._rotate()
        self._append(line)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self) -> None:
        self._file = os.open(self.params.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._size_bytes = end_of_lines(self._file)
        os.ftruncate(self._file, self._size_bytes)
        self._opened_s = self.site.clock.monotonic()

    def _append(self, line: bytes) -> None:
        try:
            written = os.pwrite(self._file, line, self._size_bytes)
        except OSError as error:  # no fault of the output: the next one would fare no better
            raise NotConnected(f"{self.params.path}: {error.strerror}") from error
        if written < len(line):
            # Half a line would be read together with the next one; `open` cuts it off.
            raise NotConnected(f"{self.params.path} took a part of a line only; is the disk full?")
        self._size_bytes += written

    def _is_due(self, more_bytes: int) -> bool:
        by_size = 0 < self.params.rotate_bytes < self._size_bytes + more_bytes
        age_s = self.site.clock.monotonic() - self._opened_s
        return by_size or 0 < self.params.rotate_every <= age_s

    def _rotate(self) -> None:
        """Begin a new file, and remove the oldest ones beyond `keep`."""
        self.close()
        path = self.params.path
        numbers = self._numbers()
        newest = max(numbers, default=0) + 1
        path.rename(path.with_name(f"{path.name}.{newest}"))
        for number in numbers if self.params.keep else ():
            if number <= newest - self.params.keep:
                path.with_name(f"{path.name}.{number}").unlink()
        self._begin()

    def _numbers(self) -> list[int]:
        path = self.params.path
        endings = (each.name.removeprefix(f"{path.name}.") for each in path.parent.glob(f"{path.name}.*"))
        return [int(ending) for ending in endings if ending.isdecimal()]


def end_of_lines(file: int) -> int:
    """Return the size of a file of JSON lines without what a kill has left of a last one.

    A last line that is whole but for its line break gets one.
    """
    size = os.fstat(file).st_size
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - TAIL_BYTES)
        tail = os.pread(file, size - start, start)
    last = tail.rpartition(b"\n")[2]
    if not last:
        return size
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        return size - len(last)
    return size + os.pwrite(file, b"\n", size)
