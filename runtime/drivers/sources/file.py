"""Source `file`: the records of a JSON lines, CSV or text file, to its end or for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from runtime.drivers import records
from runtime.drivers.flow import Item, NotConnected, Seconds, Source, SourceParameters, Wait
from runtime.drivers.sources.record_file import Place, Record, RecordFile

log = logging.getLogger(__name__)

# Spreadsheets begin a file with it.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FileFormat(StrEnum):
    """What the records of a file are."""

    JSONL = "jsonl"
    CSV = "csv"
    LINES = "lines"


_BY_SUFFIX = {".jsonl": FileFormat.JSONL, ".ndjson": FileFormat.JSONL, ".csv": FileFormat.CSV}


class FileParameters(SourceParameters):
    """Parameters of `file`."""

    path: Path = Field(description="The file.")
    format: FileFormat | None = Field(None, description="jsonl, csv or lines; by default what the name ends in.")
    as_text: bool = Field(False, description="Cells of CSV stay texts; otherwise numbers and booleans become such.")
    follow: bool = Field(False, description="Wait for more at the end, also over truncation and rotation.")
    poll: Seconds = Field(0.5, gt=0, description="How often a followed file is looked at.")
    resume: bool = Field(True, description="Go on behind what an earlier run has done, and do not begin anew.")

    @model_validator(mode="after")
    def _check_format(self) -> "FileParameters":
        if self.format is None and self.path.suffix.lower() not in _BY_SUFFIX:
            raise ValueError(f"format of {self.path.name} is not known by its name; write jsonl, csv or lines")
        return self


class FileSource(Source):
    """Reads a file record by record. A restart goes on where it stopped, on any machine that has the file.

    A record that cannot be read counts as failed and goes to the sinks with `errors: true`. A file that is truncated
    or replaced while it is read is begun anew; one that was renamed (`in.jsonl.1`) is read to its end before.
    """

    parameters = FileParameters
    params: FileParameters
    _file: RecordFile
    _names: list[str]
    _resumed: Place | None = None

    def resume(self, position: Any) -> None:
        if self.params.resume:
            self._resumed = Place(**position)

    def open(self) -> None:
        place = self._file.place if hasattr(self, "_file") else self._resumed
        self._names = []
        self._file = RecordFile(self.params.path, self._is_whole, place=place)
        try:
            told = self._file.open()
        except OSError as error:
            text = f"{self.params.path}: {error.strerror}"
            raise NotConnected(text) if self.params.follow else FileNotFoundError(text) from error
        self._warn(told)

    async def read(self) -> AsyncIterator[Any]:
        while True:
            found = await asyncio.to_thread(self._next)
            for record in found:
                if (item := self._item(record)) is not None:
                    yield item
            if found:
                continue
            renewed: bool = await asyncio.to_thread(self._is_renewed)
            if renewed:
                continue
            if not self.params.follow:
                return
            yield Wait(self.params.poll)

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    @property
    def _format(self) -> FileFormat:
        return self.params.format or _BY_SUFFIX[self.params.path.suffix.lower()]

    def _is_whole(self, lines: bytes) -> bool:
        """Say whether a record ends here: in CSV not inside of quotes, of which a whole record has an even number."""
        return self._format is not FileFormat.CSV or lines.count(b'"') % 2 == 0

    def _next(self) -> list[Record]:
        if self._format is FileFormat.CSV and not self._names:
            first = self._file.first()
            if not first:
                return []
            self._names = records.column_names(_cells(first))
        return self._file.read(to_the_end=not self.params.follow)

    def _is_renewed(self) -> bool:
        told = self._file.renew()
        if told:
            self._warn(told)
            self._names = []
        return bool(told)

    def _item(self, record: Record) -> Item | None:
        """Return the input of a record; None for an empty line, and for the names of columns."""
        position = record.place.to_json() if self.params.resume else None
        is_header = self._format is FileFormat.CSV and record.place.offset == len(record.data)
        if is_header or not record.data.strip():
            return None
        try:
            return Item(self._value(record.data), position=position)
        except ValueError as error:
            start = record.place.offset - record.place.size_bytes
            return Item(None, position=position, fault=f"{self.params.path.name} at byte {start} {error}")

    def _value(self, data: bytes) -> Any:
        if self._format is FileFormat.JSONL:
            return records.json_of(data)
        if self._format is FileFormat.LINES:
            return records.text_of(data).rstrip("\r\n")
        return records.row_values(self._names, _cells(data), as_text=self.params.as_text)

    def _warn(self, told: str) -> None:
        if told:
            log.warning("%s %s", self.params.path, told, extra={"action": "file"})


def _cells(record: bytes) -> list[str]:
    return records.csv_row(records.text_of(record.removeprefix(BYTE_ORDER_MARK)))
