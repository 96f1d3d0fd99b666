"""Tables of model calls: pandas DataFrames and pyarrow Tables <-> Parquet files and Arrow IPC streams.

Imported when a table is read or written, and never before: the packages come with the extra `tables` alone.
Failures are pyarrow's and pandas' own; `values.py` turns them into those of the runtime.
"""

import io
from collections.abc import Iterable
from typing import Any

import pandas
import pyarrow  # type: ignore[import-untyped]  # it ships no types
from pyarrow import parquet

# Largest table in memory: a few KiB of Parquet can hold as many rows of one repeated value as somebody likes.
MAX_TABLE_BYTES = 4 * 1024**3
# Rows that are unpacked before they are counted.
BATCH_ROWS = 16_384
# What a value takes at least once it is in a DataFrame; Arrow counts none for the values of an empty column.
VALUE_BYTES = 8


def to_parquet(value: Any) -> bytes:
    """Return a Parquet file with a DataFrame, index included, or a Table."""
    sink = io.BytesIO()
    parquet.write_table(_table_of(value), sink)
    return sink.getvalue()


def from_parquet(data: bytes) -> pandas.DataFrame:
    """Read what `to_parquet` made, up to `MAX_TABLE_BYTES`."""
    with parquet.ParquetFile(pyarrow.BufferReader(data)) as file:
        return _data_frame(file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS))


def to_arrow(value: Any) -> bytes:
    """Return an Arrow IPC stream with a DataFrame, index included, or a Table."""
    table = _table_of(value)
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def from_arrow(data: bytes) -> pandas.DataFrame:
    """Read what `to_arrow` made, up to `MAX_TABLE_BYTES`."""
    with pyarrow.ipc.open_stream(pyarrow.BufferReader(data)) as reader:
        return _data_frame(reader.schema, reader)


def _table_of(value: Any) -> pyarrow.Table:
    table = pyarrow.Table.from_pandas(value) if isinstance(value, pandas.DataFrame) else value
    if not isinstance(table, pyarrow.Table):
        raise TypeError("it is no DataFrame and no Table")
    if table.num_rows and not table.num_columns:
        raise ValueError("neither format keeps the rows of a table without columns")
    return table


def _data_frame(schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> pandas.DataFrame:
    kept: list[pyarrow.RecordBatch] = []
    size_bytes = 0
    for batch in batches:
        size_bytes += max(batch.nbytes, batch.num_rows * max(batch.num_columns, 1) * VALUE_BYTES)
        if size_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"the table takes more than {MAX_TABLE_BYTES} bytes in memory")
        kept.append(batch)
    frame: pandas.DataFrame = pyarrow.Table.from_batches(kept, schema).to_pandas()
    return frame
