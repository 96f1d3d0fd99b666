"""Sink `parquet`: outputs as the rows of Parquet files."""

import logging
import os
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from runtime.drivers.components import missing_extra
from runtime.drivers.flow import Item, NotConnected, Seconds, Sink, SinkParameters, record_of
from runtime.drivers.records import json_bytes
from runtime.drivers.sinks.file import end_of_lines

try:
    import pyarrow  # type: ignore[import-untyped]  # it ships no types
    from pyarrow import parquet
except ModuleNotFoundError as error:
    raise missing_extra("tables", "pyarrow") from error

log = logging.getLogger(__name__)

# Digits of the number in a file's name, so that names sort.
NUMBER_DIGITS = 6


class ParquetParameters(SinkParameters):
    """Parameters of `parquet`."""

    path: Path = Field(description="Of the files: out.parquet becomes out-000001.parquet and so on.")
    with_item: bool = Field(False, description="Rows are {request_id, source, state_id, metadata, …, output}.")
    rows: int = Field(10_000, ge=1, description="Rows of a file.")
    rotate_every: Seconds = Field(0.0, ge=0, description="Write a file after so long, if there is output; 0s never.")


class ParquetSink(Sink):
    """Collects outputs, which have to be JSON objects, and writes them as Parquet files.

    A Parquet file can be read only once it is complete. Until then its rows are in a journal of JSON lines beside it
    (`.out.parquet.journal`), so that nothing is lost when the process is killed: the next one goes on with it. What is
    left when the sink closes becomes a file, too. Columns and their types are those of the rows of each file; rows
    whose types contradict each other become a file of JSON lines. Needs krt-runtime[tables].
    """

    parameters = ParquetParameters
    params: ParquetParameters
    _file = -1
    _size_bytes = 0
    _rows = 0
    _opened_s = 0.0

    def open(self) -> None:
        self.params.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._journal, os.O_RDWR | os.O_CREAT, 0o644)
        self._size_bytes = end_of_lines(self._file)
        os.ftruncate(self._file, self._size_bytes)
        self._rows = len(self._read_journal())
        self._opened_s = self.site.clock.monotonic()

    def write(self, outputs: Any, item: Item) -> None:
        row = record_of(outputs, item) if self.params.with_item else outputs
        if not isinstance(row, dict):
            raise TypeError(f"a row is a JSON object, and not {type(row).__name__}; write with_item: true")
        line = json_bytes(row) + b"\n"
        try:
            written = os.pwrite(self._file, line, self._size_bytes)
        except OSError as error:  # no fault of the output: the next one would fare no better
            raise NotConnected(f"{self._journal}: {error.strerror}") from error
        if written < len(line):  # `open` cuts the part off
            raise NotConnected(f"{self._journal} took a part of a row only; is the disk full?")
        self._size_bytes += written
        self._rows += 1
        age_s = self.site.clock.monotonic() - self._opened_s
        if self._rows >= self.params.rows or 0 < self.params.rotate_every <= age_s:
            self._complete()

    def close(self) -> None:
        if self._file >= 0:
            if self._rows:
                self._complete()
            os.close(self._file)
            self._file = -1
            self._journal.unlink()

    @property
    def _journal(self) -> Path:
        return self.params.path.with_name(f".{self.params.path.name}.journal")

    def _read_journal(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in os.pread(self._file, self._size_bytes, 0).splitlines()]

    def _complete(self) -> None:
        """Make a file of the journal. Dying before the journal is emptied writes the same rows again."""
        path = self._next_path()
        part = path.with_name(f".{path.name}.part")
        try:
            parquet.write_table(pyarrow.Table.from_pylist(self._read_journal()), part)
        except pyarrow.ArrowException as error:
            path = path.with_suffix(".jsonl")
            text = "rows have no common types, so they are written as %s: %s"
            log.warning(text, path, error, extra={"action": "parquet"})
            part.write_bytes(os.pread(self._file, self._size_bytes, 0))
        part.replace(path)
        os.ftruncate(self._file, 0)
        self._size_bytes = self._rows = 0
        self._opened_s = self.site.clock.monotonic()

    def _next_path(self) -> Path:
        path = self.params.path
        numbers = [
            int(number)
            for each in path.parent.glob(f"{path.stem}-*")
            if (number := each.stem.removeprefix(f"{path.stem}-")).isdecimal()
        ]
        return path.with_name(f"{path.stem}-{max(numbers, default=0) + 1:0{NUMBER_DIGITS}}{path.suffix}")
