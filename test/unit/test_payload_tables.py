"""Arrow tables as payloads: round trips, no copy on reading, and the refusal of what is none."""

from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import DecodeError, EncodeError
from runtime.payload import decode_value, decoder_for, describe, encode_value, json_form
from runtime.proto import natives, varint
from runtime.proto.packed import any_head, whole

TABLE = pa.table(
    {
        "id": pa.array([1, 2, None], pa.int64()),
        "name": ["a", "b", "ü"],
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "scores": [[0.5], [], [1.0, 2.0]],
    }
)


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def payload_of(data: bytes) -> bytes:
    return whole(natives.write_table(memoryview(data)))


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(1, 1), TABLE.slice(0, 0), pa.concat_tables([TABLE, TABLE])])
def test_a_table_comes_back_as_it_was(table: pa.Table) -> None:
    payload = encode_value(table)

    assert decoder_for(pa.Table)(payload).equals(table)
    assert decode_value(payload).equals(table)


@given(st.lists(st.tuples(st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.floats(), st.text())))
def test_rows_come_back_as_they_were(rows: list[tuple[Any, ...]]) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.string())])
    safe = [(a, b, c.encode(errors="replace").decode()) for a, b, c in rows]
    table = pa.Table.from_pylist([dict(zip("abc", row, strict=True)) for row in safe], schema=schema)

    received = decoder_for(pa.Table)(encode_value(table))

    assert str(received.to_pylist()) == str(table.to_pylist())


def test_a_table_is_read_where_it_lies() -> None:
    payload = encode_value(pa.table({"a": range(100_000)}))
    before = pa.total_allocated_bytes()

    received = decoder_for(pa.Table)(payload)

    assert pa.total_allocated_bytes() == before
    assert received.num_rows == 100_000


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(0, 0), pa.concat_tables([TABLE, TABLE])])
def test_a_table_may_be_taken_as_one_record_batch(table: pa.Table) -> None:
    batch = decoder_for(pa.RecordBatch)(encode_value(table))

    assert isinstance(batch, pa.RecordBatch)
    assert pa.Table.from_batches([batch]).to_pylist() == table.to_pylist()
    assert decoder_for(pa.Table)(encode_value(batch)).to_pylist() == table.to_pylist()


def test_a_data_frame_travels_as_a_table_with_its_index() -> None:
    frame = pd.DataFrame({"x": [1, 2], "y": [0.5, None]}, index=["a", "b"])

    payload = encode_value(frame)

    pd.testing.assert_frame_equal(decoder_for(pd.DataFrame)(payload), frame)
    assert decode_value(payload).column_names == ["x", "y", "__index_level_0__"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pd.DataFrame({"x": [1, "a"]}), "the table has no form as a payload: .*x"),
        (pa.table({"x": [1, 2]}).select([]), "the rows of a table without columns would be lost"),
    ],
)
def test_a_table_without_a_form_is_refused(value: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        encode_value(value)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("columns", [["id"], ["kind"], ["scores"]])
def test_a_compressed_table_is_refused_before_it_unfolds(compression: str, columns: list[str]) -> None:
    data = stream(TABLE.select(columns), compression)

    with pytest.raises(DecodeError, match="it is compressed; write it without compression"):
        decoder_for(pa.Table)(payload_of(data))


def test_a_table_that_unfolds_to_any_size_is_refused() -> None:
    batch = pa.record_batch([pa.Array.from_buffers(pa.null(), 2**30, [None])], ["nothing"])

    with pytest.raises(DecodeError, match="it unfolds to more than"):
        decoder_for(pa.Table)(payload_of(stream(pa.Table.from_batches([batch]))))


@pytest.mark.parametrize(
    "payload",
    [
        payload_of(b""),
        payload_of(b"nonsense" * 10),
        payload_of(stream(TABLE)[:-300]),
        any_head("krt.Table")[:-1],
        any_head("krt.Table") + b"\x02\x12\x05",
    ],
)
def test_what_is_no_table_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(pa.Table)(payload)

    assert raised.value.reason == "payload"


@given(st.data())
def test_bytes_that_were_changed_are_read_or_refused(data: st.DataObject) -> None:
    payload = bytearray(encode_value(TABLE))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        table = decoder_for(pa.Table)(bytes(payload))
    except DecodeError as error:
        assert error.reason in ("payload", "payload-type")
    else:
        table.to_pylist()


@given(st.binary(max_size=60))
def test_any_bytes_of_the_type_are_read_or_refused(inner: bytes) -> None:
    try:
        decoder_for(pa.Table)(any_head("krt.Table") + varint(len(inner)) + inner)
    except DecodeError as error:
        assert error.reason == "payload"


def test_another_kind_of_payload_is_told_with_both_names() -> None:
    with pytest.raises(DecodeError, match=r"the handler takes krt\.Table, the payload is krt\.Json"):
        decoder_for(pa.Table)(encode_value([{"id": 1}]))


def test_a_table_is_rows_in_json_and_a_line_for_people() -> None:
    payload = encode_value(TABLE)

    assert json_form(TABLE)[2] == {"id": None, "name": "ü", "kind": "x", "scores": [1.0, 2.0]}
    assert describe(payload).startswith("Table, 1,")
