"""Arrow tables as payloads: read where they lie, without a copy.

Imported when a table is read or written, and never before: pyarrow comes with the extra `tables` alone. On the wire:
`proto/natives.py`.
"""

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow  # type: ignore[import-untyped]  # it ships no types

from runtime.errors import DecodeError, EncodeError
from runtime.message import Payload
from runtime.proto import natives

# Largest table once it is unfolded: a column of nothing, or of one repeated value, has a length and no bytes.
MAX_TABLE_BYTES = 4 * 1024**3
# What a value takes at least once it is unfolded.
VALUE_BYTES = 8

# Of a message of an IPC stream, which is a table of flatbuffers: its header's type and its header.
_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
# Of a dictionary batch: the record batch inside. Of a record batch: how it is compressed.
_DATA, _COMPRESSION = 1, 3


def encode(table: Any) -> Payload:
    """Return the payload of a pyarrow Table or RecordBatch, or of a pandas DataFrame, index included.

    Raises EncodeError for a table that Arrow cannot write.
    """
    return natives.write_table(memoryview(to_media(table)))


def decoder(annotation: Any) -> Callable[[bytes], Any]:
    """Return what reads a payload as this class: a pyarrow Table or RecordBatch, or a pandas DataFrame."""
    convert = _CONVERSIONS[annotation.__name__]

    def decode_converted(payload: bytes) -> Any:
        table = decode(payload)
        return None if table is None else convert(table)

    return decode_converted


def decode(payload: bytes) -> Any:
    """Return the pyarrow Table in a payload, which shares its memory; None for a payload of another type.

    Raises DecodeError.
    """
    place = natives.read_table(payload)
    return None if place is None else from_media(memoryview(payload)[slice(*place)])


def from_media(stream: bytes | memoryview) -> Any:
    """Return the pyarrow Table of an IPC stream, which shares its memory. Raises DecodeError.

    One that is compressed is refused: some kilobytes could unfold to any size.
    """
    source = pyarrow.py_buffer(stream)
    aligned = pyarrow.ipc.IpcReadOptions(ensure_alignment=pyarrow.ipc.Alignment.DataTypeSpecific)
    try:
        for message in pyarrow.ipc.MessageReader.open_stream(pyarrow.BufferReader(source)):
            if _is_compressed(bytes(message.metadata)):
                raise ValueError("it is compressed; write it without compression")
        with pyarrow.ipc.open_stream(pyarrow.BufferReader(source), options=aligned) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if table.num_rows * table.num_columns * VALUE_BYTES > MAX_TABLE_BYTES:
            raise ValueError(f"it unfolds to more than {MAX_TABLE_BYTES:,} bytes")
    except (ValueError, TypeError, LookupError, OSError, struct.error, pyarrow.ArrowException) as error:
        raise DecodeError(f"the payload is no Arrow IPC stream: {error}", reason="payload") from error
    return table


def to_media(table: Any) -> bytes:
    """Return the IPC stream of a table; takes and raises what `encode` does."""
    sink = io.BytesIO()
    try:
        table = _table_of(table)
        if table.num_rows and not table.num_columns:
            raise ValueError("the rows of a table without columns would be lost")
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write(table)
    except (ValueError, TypeError, pyarrow.ArrowException) as error:
        raise EncodeError(f"the table has no form as a payload: {error}") from error
    return sink.getvalue()


def from_json(rows: Any) -> Any:
    """Return a list of rows as a pyarrow Table. Raises ValueError."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of rows; give [{column: value}]")
    try:
        return pyarrow.Table.from_pylist(rows)
    except (TypeError, OverflowError, pyarrow.ArrowException) as error:
        raise ValueError(str(error)) from error


def json_form(table: Any) -> list[dict[str, Any]]:
    """Return a table as a list of its rows."""
    rows: list[dict[str, Any]] = _table_of(table).to_pylist()
    return rows


def _table_of(value: Any) -> Any:
    """Return a pyarrow Table, or RecordBatch, as it is, and a pandas DataFrame as a Table, index included."""
    if isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
        return value
    return pyarrow.Table.from_pandas(value)


def _as_batch(table: Any) -> Any:
    """Return a table as one RecordBatch, which is a copy where it came as several."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pyarrow.RecordBatch.from_pylist([], schema=table.schema)


# By the name of the class; each makes it from a Table. A DataFrame is always a copy.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Table": lambda table: table,
    "RecordBatch": _as_batch,
    "DataFrame": lambda table: table.to_pandas(),
}


def _is_compressed(metadata: bytes) -> bool:
    """Say whether a message's body is; pyarrow itself does not.

    https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
    """
    (root,) = struct.unpack_from("<I", metadata)
    members = dict(_members(metadata, root))
    if _HEADER_TYPE not in members or _HEADER not in members:
        return False
    kind = metadata[members[_HEADER_TYPE]]
    batch = _target(metadata, members[_HEADER])
    if kind == _DICTIONARY_BATCH:
        batch = _target(metadata, dict(_members(metadata, batch))[_DATA])
    elif kind != _RECORD_BATCH:
        return False
    return _COMPRESSION in dict(_members(metadata, batch))


def _members(data: bytes, table: int) -> Iterator[tuple[int, int]]:
    """Yield number and place of every member that a table of flatbuffers has.

    https://flatbuffers.dev/internals/#tables
    """
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    for number in range((size - 4) // 2):
        (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * number)
        if offset:
            yield number, table + offset


def _target(data: bytes, place: int) -> int:
    (offset,) = struct.unpack_from("<I", data, place)
    return place + int(offset)
