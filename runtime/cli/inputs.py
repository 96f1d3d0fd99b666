"""What a person types or keeps in a file -> inputs of a request: JSON, JSON lines, rows of CSV, protobuf messages."""

import csv
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.message import Message as ProtobufMessage

from runtime import errors
from runtime.cli.target import Target
from runtime.drivers import records
from runtime.spec.load import load

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One message of a file. index counts from 0, line from 1; fault: why there is no value."""

    index: int
    line: int
    value: Any = None
    fault: str = ""


# --- one ---


def read_argument(text: str) -> Any:
    """Return the value of a JSON literal, of `@FILE`, or of the standard input for `-`. Raises ConfigError."""
    if text == "-":
        return _parse(sys.stdin.buffer.read(), "the standard input is not JSON")
    if text.startswith("@"):
        try:
            content = Path(text[1:]).read_bytes()
        except OSError as error:
            raise errors.ConfigError(f"{text[1:]}: {error.strerror}") from error
        return _parse(content, f"{text[1:]} is not JSON")
    hint = f"; a text needs quotes of its own: '\"{text}\"'" if re.fullmatch(r"[^\s\"{}\[\]]+", text) else ""
    return _parse(text.encode(errors="surrogateescape"), f"{text} is not JSON", hint)


def _parse(content: bytes, what: str, hint: str = "") -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise errors.ConfigError(f"{what}: {error}{hint}") from error


# --- many ---


def read_inputs(file: Path, *, as_text: bool = False, limit: int | None = None) -> Iterator[Input]:
    """Yield the messages of a `.jsonl` or `.csv` file as it is read; a bad line is an Input with a fault.

    as_text: the cells of a CSV file stay texts. Raises ConfigError for a file that cannot be read at all.
    """
    suffix = file.suffix.lower()
    if suffix not in (".jsonl", ".csv"):
        raise errors.ConfigError(f"{file} is neither .jsonl nor .csv")
    found = _read_lines(file) if suffix == ".jsonl" else _read_rows(file, as_text)
    try:
        for index, (line, value, fault) in enumerate(found):
            if index == limit:
                return
            yield Input(index=index, line=line, value=value, fault=fault)
    except OSError as error:
        raise errors.ConfigError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.ConfigError(f"{file} is not UTF-8: {error}") from error


Found = Iterator[tuple[int, Any, str]]


def _read_lines(file: Path) -> Found:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, records.json_of(line), ""
            except ValueError as error:
                yield number, None, f"line {number} {error}"


def _read_rows(file: Path, as_text: bool) -> Found:
    with file.open(encoding="utf-8-sig", newline="") as lines:  # spreadsheets write a byte order mark
        rows = csv.reader(lines, strict=True)
        try:
            names = records.column_names(next(rows, []))
        except ValueError as error:
            raise errors.ConfigError(f"{file} {error}") from error
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield rows.line_num, None, f"line {rows.line_num} is not CSV: {error}"
                continue
            if not row:
                continue
            try:
                yield rows.line_num, records.row_values(names, row, as_text=as_text), ""
            except ValueError as error:
                yield rows.line_num, None, f"line {rows.line_num} {error}"


# --- protobuf ---


def converter(reference: str, target: Target) -> Convert:
    """Return what turns a JSON value into an input: itself, or the message class that `reference` names.

    reference: "" or `MODULE:CLASS`, imported from the handlers' folders of the workflow. The converter and this
    function raise ConfigError.
    """
    if not reference:
        return lambda value: value
    kind = _message_class(reference, _code_folders(target))
    from google.protobuf import json_format

    def convert(value: Any) -> ProtobufMessage:
        try:
            return json_format.ParseDict(value, kind())
        except (json_format.ParseError, AttributeError, TypeError) as error:  # the latter two: no JSON object
            raise errors.ConfigError(f"the input does not fit {kind.DESCRIPTOR.full_name}: {error}") from error

    return convert


def _message_class(reference: str, folders: Sequence[Path]) -> type[ProtobufMessage]:
    module_name, _, class_name = reference.partition(":")
    if not module_name or not class_name:
        raise errors.ConfigError(f'"{reference}" names no message; write MODULE:CLASS')
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        kind = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        searched = ", ".join(map(str, folders))
        raise errors.ConfigError(f"{module_name} cannot be imported: {error}; searched first: {searched}") from error
    if not isinstance(kind, type) or not issubclass(kind, ProtobufMessage):
        raise errors.ConfigError(f"{module_name} has no protobuf message {class_name}")
    return kind


def _code_folders(target: Target) -> list[Path]:
    """Return the folders that the handlers of the workflow import from: their own, then the workflow's."""
    folder = Path(target.run.folder) if target.run else Path(target.name)
    try:
        workflow = load(folder, workflow=target.name if target.run else "")
    except errors.ConfigError:  # the code may be found all the same
        return [folder, Path.cwd()]
    files = (Path(file) for node in workflow.nodes for file in node.code_files)
    beside = {workflow.folder / file.parent: None for file in files}
    return [*beside, workflow.folder]
