"""Values of model calls: every type there and back, its bytes, and what has no form."""

import json
import math
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import DecodeError, EncodeError, EncodingError, InvalidCoordinatorUsageError
from runtime.models import tables
from runtime.models.values import (
    Argument,
    KwArgument,
    Variant,
    VariantType,
    arguments_of,
    check_arguments,
    decode_data,
    detect_type,
    encode_data,
    from_variant,
    plain_arguments,
    to_variant,
)
from runtime.proto.models import VARIANT_TYPES

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**63 - 1)
plain = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)  # fmt: skip


def test_the_types_are_those_of_the_wire() -> None:
    assert tuple(VariantType.__members__) == VARIANT_TYPES
    assert [int(kind) for kind in VariantType] == list(range(len(VARIANT_TYPES)))


# --- there and back ---


@given(json_values)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = from_variant(to_variant(value))

    assert back == value
    assert type(back) is type(value)


@given(json_values)
def test_every_value_of_json_comes_back_as_json(value: Any) -> None:
    data = encode_data(VariantType.JSON, value)

    assert decode_data(data, VariantType.JSON) == value
    assert json.loads(data) == value


@given(st.floats())
def test_every_float_comes_back_bit_by_bit(value: float) -> None:
    back = from_variant(to_variant(value))

    assert struct.pack("<d", back) == struct.pack("<d", value)


columns = st.fixed_dictionaries(
    {
        "number": st.lists(numbers, min_size=3, max_size=3),
        "float": st.lists(st.floats(), min_size=3, max_size=3),
        "text": st.lists(texts, min_size=3, max_size=3),
        "flag": st.lists(st.booleans(), min_size=3, max_size=3),
    }
)


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
@given(given_columns=columns)
def test_tables_come_back_as_they_were(kind: VariantType, given_columns: dict[str, list[Any]]) -> None:
    frame = pd.DataFrame(given_columns)

    pd.testing.assert_frame_equal(decode_data(encode_data(kind, frame), kind), frame)


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
def test_an_index_categories_times_and_gaps_of_a_table_are_kept(kind: VariantType) -> None:
    frame = pd.DataFrame(
        {
            "gaps": [1.5, None, math.nan],
            "text": ["x", None, "z"],
            "category": pd.Categorical(["u", "v", "u"]),
            "time": pd.to_datetime(["2026-01-01", "NaT", "2026-01-03"], utc=True),
        },
        index=pd.Index(["p", "q", "r"], name="key"),
    )

    pd.testing.assert_frame_equal(decode_data(encode_data(kind, frame), kind), frame)


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
def test_a_table_of_pyarrow_comes_back_as_a_data_frame(kind: VariantType) -> None:
    table = pa.table({"a": [1, 2]})

    pd.testing.assert_frame_equal(decode_data(encode_data(kind, table), kind), pd.DataFrame({"a": [1, 2]}))


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
def test_a_table_without_rows_keeps_its_columns(kind: VariantType) -> None:
    frame = pd.DataFrame({"a": pd.Series([], dtype="int64")})

    pd.testing.assert_frame_equal(decode_data(encode_data(kind, frame), kind), frame)


# --- bytes ---


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (VariantType.NONE, None, b""),
        (VariantType.DOUBLE, 1.0, bytes.fromhex("000000000000f03f")),
        (VariantType.DOUBLE, -math.inf, bytes.fromhex("000000000000f0ff")),
        (VariantType.DOUBLE, 3, bytes.fromhex("0000000000000840")),
        (VariantType.INT, -2, bytes.fromhex("feffffffffffffff")),
        (VariantType.INT, 2**63 - 1, bytes.fromhex("ffffffffffffff7f")),
        (VariantType.INT, np.uint8(255), bytes.fromhex("ff00000000000000")),
        (VariantType.STRING, "é\ufeff", "é\ufeff".encode()),
        (VariantType.JSON, {"é": [1, 2.5, None, True]}, '{"é":[1,2.5,null,true]}'.encode()),
        (VariantType.JSON, np.array([[1, 2], [3, 4]]), b"[[1,2],[3,4]]"),
        (VariantType.JSON, {"mean": np.float32(0.5), "seen": np.bool_(True)}, b'{"mean":0.5,"seen":true}'),
    ],
)
def test_bytes_are_those_of_other_implementations(kind: VariantType, value: Any, data: bytes) -> None:
    assert encode_data(kind, value) == data


def test_json_of_others_may_hold_spaces_and_escapes() -> None:
    assert decode_data(b' {"a": "\\u00e9\\ud83d\\ude00"}\n', VariantType.JSON) == {"a": "é😀"}


def test_parquet_is_one_whole_file() -> None:
    data = encode_data(VariantType.PARQUET, pd.DataFrame({"a": [1]}))

    assert data.startswith(b"PAR1") and data.endswith(b"PAR1")


# --- detection ---


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, VariantType.NONE),
        (True, VariantType.JSON),
        (np.bool_(True), VariantType.JSON),
        (7, VariantType.INT),
        (np.int64(7), VariantType.INT),
        (np.uint64(7), VariantType.INT),
        (0.5, VariantType.DOUBLE),
        (np.float32(0.5), VariantType.DOUBLE),
        (np.float64(0.5), VariantType.DOUBLE),
        ("text", VariantType.STRING),
        ({}, VariantType.JSON),
        ([], VariantType.JSON),
        ((), VariantType.JSON),
        (np.zeros(2), VariantType.JSON),
        (pd.DataFrame(), VariantType.PARQUET),
        (pa.table({}), VariantType.ARROW),
    ],
)
def test_the_type_of_a_value_is_detected(value: Any, kind: VariantType) -> None:
    assert detect_type(value) is kind


@pytest.mark.parametrize("value", [b"bytes", {1}, object(), 1j, pd.Series([1])])
def test_a_value_of_another_type_is_refused_by_the_name_of_its_type(value: Any) -> None:
    with pytest.raises(EncodingError, match=rf"\.{type(value).__name__} is no value of a model call"):
        to_variant(value)


def test_a_variant_passes_through() -> None:
    variant = Variant(type=VariantType.STRING, value=b"as it is")

    assert to_variant(variant) is variant


# --- what has no form ---

NO_FORM = {
    "an integer beyond 64 bits": (VariantType.INT, 2**63, "64 bits does not fit"),
    "an integer below 64 bits": (VariantType.INT, -(2**63) - 1, "does not fit"),
    "a fraction as an integer": (VariantType.INT, 1.5, "'float' is no INT"),
    "an integer beyond a double": (VariantType.DOUBLE, 10**400, "is no DOUBLE"),
    "a text as a number": (VariantType.DOUBLE, "1.5", "'str' is no DOUBLE"),
    "something as nothing": (VariantType.NONE, 0, "is no NONE"),
    "a number as a text": (VariantType.STRING, 5, "is no STRING"),
    "half a character": (VariantType.STRING, "\ud83d", "surrogates not allowed"),
    "NaN in JSON": (VariantType.JSON, {"a": [math.nan]}, "is no JSON"),
    "infinity in JSON": (VariantType.JSON, math.inf, "is no JSON"),
    "NaN of numpy in JSON": (VariantType.JSON, np.array([np.nan]), "is no JSON"),
    "half a character in JSON": (VariantType.JSON, ["\ud83d"], "surrogates not allowed"),
    "bytes in JSON": (VariantType.JSON, {"a": b""}, "bytes has no form in JSON"),
    "a key that is no text": (VariantType.JSON, {(1, 2): 3}, "keys must be"),
    "a list as a table": (VariantType.PARQUET, [1], "no DataFrame and no Table"),
    "a table of objects": (VariantType.ARROW, pd.DataFrame({"a": [object()]}), "is no ARROW"),
    "two columns of a name": (VariantType.PARQUET, pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate column"),
    "rows without columns": (VariantType.PARQUET, pd.DataFrame(index=range(5)), "without columns"),
    "an unknown type": (7, "x", "7 is no VariantType; there are NONE, DOUBLE"),
}


@pytest.mark.parametrize(("kind", "value", "fault"), NO_FORM.values(), ids=NO_FORM.keys())
def test_what_has_no_form_is_refused_before_it_is_sent(kind: int, value: Any, fault: str) -> None:
    with pytest.raises(EncodingError, match=fault) as refused:
        encode_data(kind, value)

    assert isinstance(refused.value, ValueError) and isinstance(refused.value, EncodeError)


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(EncodingError, match="is no JSON"):
        to_variant(circle)


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(EncodingError, match="recursion"):
        to_variant(nested)
    while nested:  # one by one: freeing all at once would go as deep
        nested = nested.pop()


UNREADABLE = {
    "something as nothing": (VariantType.NONE, b"x"),
    "a short double": (VariantType.DOUBLE, b"\0" * 4),
    "a long double": (VariantType.DOUBLE, b"\0" * 16),
    "an empty integer": (VariantType.INT, b""),
    "a long integer": (VariantType.INT, b"\0" * 9),
    "bytes that are no text": (VariantType.STRING, b"\xff"),
    "no JSON": (VariantType.JSON, b"{"),
    "empty JSON": (VariantType.JSON, b""),
    "NaN in JSON": (VariantType.JSON, b"[NaN]"),
    "infinity in JSON": (VariantType.JSON, b"-Infinity"),
    "JSON in UTF-16": (VariantType.JSON, '"x"'.encode("utf-16")),
    "JSON with a mark of byte order": (VariantType.JSON, b"\xef\xbb\xbf1"),
    "half a character in JSON": (VariantType.JSON, b'{"\\uD83D": 1}'),
    "deep JSON": (VariantType.JSON, b"[" * 100_000),
    "an endless number in JSON": (VariantType.JSON, b"9" * 5_000),
    "no Parquet": (VariantType.PARQUET, b"PAR1PAR1"),
    "empty Parquet": (VariantType.PARQUET, b""),
    "no Arrow": (VariantType.ARROW, b"x" * 100),
    "empty Arrow": (VariantType.ARROW, b""),
    "an unknown type": (7, b""),
}


@pytest.mark.parametrize(("kind", "data"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_is_refused(kind: int, data: bytes) -> None:
    with pytest.raises(DecodeError) as refused:
        decode_data(data, kind)

    assert refused.value.reason == "payload"


@given(st.sampled_from(VariantType), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind: VariantType, data: bytes) -> None:
    try:
        decode_data(data, kind)
    except DecodeError as refused:
        assert refused.reason == "payload"


@given(st.data(), st.sampled_from([VariantType.PARQUET, VariantType.ARROW]))
def test_a_damaged_table_is_read_or_refused(draws: st.DataObject, kind: VariantType) -> None:
    data = bytearray(encode_data(kind, pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})))
    for _ in range(draws.draw(st.integers(1, 5))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))

    try:
        decode_data(bytes(data), kind)
    except DecodeError as refused:
        assert refused.reason == "payload"


@pytest.mark.parametrize("kind", [VariantType.PARQUET, VariantType.ARROW])
def test_a_small_file_cannot_fill_the_memory(kind: VariantType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1_000_000)
    fits = encode_data(kind, pa.table({"a": pa.nulls(120_000)}))
    data = encode_data(kind, pa.table({"a": pa.nulls(130_000)}))
    assert len(data) < 10_000

    assert len(decode_data(fits, kind)) == 120_000
    with pytest.raises(DecodeError, match="more than 1000000 bytes in memory"):
        decode_data(data, kind)


def test_a_table_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"a": [1]})
    data = encode_data(VariantType.ARROW, frame)
    monkeypatch.delattr("runtime.models.tables")
    monkeypatch.setitem(sys.modules, "runtime.models.tables", None)

    with pytest.raises(EncodingError, match=r"krt-runtime\[tables\]"):
        encode_data(VariantType.PARQUET, frame)
    with pytest.raises(DecodeError, match=r"krt-runtime\[tables\]"):
        decode_data(data, VariantType.ARROW)


# --- arguments ---


@given(st.lists(json_values, max_size=5), st.dictionaries(st.sampled_from(["a", "b", "größe"]), json_values))
def test_arguments_come_back_as_they_were(args: list[Any], kwargs: dict[str, Any]) -> None:
    arguments, keywords = arguments_of(args, kwargs)

    assert [argument.position for argument in arguments] == list(range(1, len(args) + 1))
    assert plain_arguments(arguments, keywords) == (args, kwargs)


def test_an_argument_without_a_form_is_named() -> None:
    with pytest.raises(EncodingError, match="argument 2: "):
        arguments_of([1, 2**64], {})
    with pytest.raises(EncodingError, match="argument 'horizon': "):
        arguments_of([1], {"horizon": {3}})


def at(*positions: int) -> list[Any]:
    return [Argument(position=position, data=to_variant(position)) for position in positions]


@pytest.mark.parametrize("positions", [(), (0,), (1,), (1, 0), (3, 1, 2), (0, 1, 2)])
def test_positions_count_from_0_or_1_in_any_order(positions: tuple[int, ...]) -> None:
    assert plain_arguments(at(*positions), [])[0] == sorted(positions)


@pytest.mark.parametrize("positions", [(2,), (1, 1), (0, 2), (1, 3), (0, 0, 1)])
def test_positions_with_a_gap_or_twice_are_refused(positions: tuple[int, ...]) -> None:
    with pytest.raises(InvalidCoordinatorUsageError, match=", ".join(map(str, sorted(positions)))):
        check_arguments(at(*positions), [])


@pytest.mark.parametrize("names", [[""], ["a b"], ["a", "a"]])
def test_keywords_that_no_method_can_take_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidCoordinatorUsageError, match="keyword"):
        check_arguments([], [KwArgument(keyword=name, data=to_variant(1)) for name in names])


def test_plain_values_among_arguments_are_refused() -> None:
    with pytest.raises(InvalidCoordinatorUsageError, match="pass plain values as args="):
        check_arguments([1], [])
    with pytest.raises(InvalidCoordinatorUsageError, match="no KwArgument"):
        check_arguments([], at(1))


def test_no_library_is_imported_until_a_table_is_met() -> None:
    script = (
        "import sys; from runtime.models.values import to_variant; to_variant([1]); "
        "print({'numpy', 'pandas', 'pyarrow'} & {*sys.modules})"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=10, check=True)

    assert ended.stdout == "set()\n"
