"""Payload codecs: what a handler receives for its annotation, and what its results become."""

import dataclasses
import datetime
import decimal
import enum
import math
import uuid
from typing import Any

import numpy as np
import pydantic
import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import Message as ProtobufMessage
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import DecodeError, EncodeError
from runtime.payload import decode_any, decode_value, decoder_for, describe_type, encode_value


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Order(pydantic.BaseModel):
    number: int
    items: list[str] = []


class Color(enum.StrEnum):
    RED = "red"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert decode_value(encode_value(value)) == value


@given(st.binary(max_size=500))
def test_bytes_come_back_as_they_were(value: bytes) -> None:
    assert decode_value(encode_value(value)) == value
    assert decoder_for(bytes)(encode_value(value)) == value


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for annotation in (Any, dict, int, bytes, Order, wrappers_pb2.StringValue):
        try:
            decoder_for(annotation)(data)
        except DecodeError as error:
            assert error.reason in ("payload", "payload-type")


@pytest.mark.parametrize(
    ("annotation", "sent", "received"),
    [
        (dict, {"a": 1}, {"a": 1}),
        (list, [1, "a"], [1, "a"]),
        (str, "text", "text"),
        (int, 3, 3),
        (float, 1.5, 1.5),
        (float, 3, 3.0),
        (bool, True, True),
        (bytes, b"raw", b"raw"),
        (bytes, bytearray(b"raw"), b"raw"),
        (bytes, memoryview(b"raw"), b"raw"),
        (bytes, b"", b""),
        (bytes, wrappers_pb2.BytesValue(value=b""), b""),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (list[Point], [{"x": 1}], [Point(1)]),
        (Point, Point(1, 2), Point(1, 2)),
        (Order, Order(number=3, items=["a"]), Order(number=3, items=["a"])),
        (dict | None, None, None),
        (Color, Color.RED, Color.RED),
        (wrappers_pb2.StringValue, wrappers_pb2.StringValue(value="x"), wrappers_pb2.StringValue(value="x")),
        (duration_pb2.Duration, duration_pb2.Duration(seconds=3), duration_pb2.Duration(seconds=3)),
        (struct_pb2.Struct, struct_pb2.Struct(), struct_pb2.Struct()),
    ],
)
def test_an_annotation_chooses_what_is_received(annotation: Any, sent: Any, received: Any) -> None:
    value = decoder_for(annotation)(encode_value(sent))

    assert value == received
    assert type(value) is type(received)


@pytest.mark.parametrize("annotation", [Any, object, any_pb2.Any, ProtobufMessage])
def test_the_raw_any_is_of_the_default_pool(annotation: Any) -> None:
    value = decoder_for(annotation)(encode_value(wrappers_pb2.StringValue(value="x")))
    unpacked = wrappers_pb2.StringValue()

    assert isinstance(value, any_pb2.Any)
    assert value.Unpack(unpacked)
    assert unpacked.value == "x"


@pytest.mark.parametrize(
    ("annotation", "sent", "text"),
    [
        (dict, b"x", "the handler takes krt.Json, the payload is google.protobuf.BytesValue"),
        (int, struct_pb2.Struct(), "the handler takes krt.Json, the payload is google.protobuf.Struct"),
        (bytes, {"a": 1}, "the handler takes google.protobuf.BytesValue, the payload is krt.Json"),
        (wrappers_pb2.StringValue, 1, "the handler takes google.protobuf.StringValue, the payload is krt.Json"),
        (dict, [1], "the handler takes dict, the payload is list"),
        (list, None, "the handler takes list, the payload is null"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_with_both_names(annotation: Any, sent: Any, text: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(annotation)(encode_value(sent))

    assert (str(raised.value), raised.value.reason) == (text, "payload-type")


@pytest.mark.parametrize(
    ("annotation", "sent", "text"),
    [
        (int, "5", "the payload does not fit int: value: Input should be a valid integer"),
        (str, 5, "the payload does not fit str: value: Input should be a valid string"),
        (bool, 1, "the payload does not fit bool: value: Input should be a valid boolean"),
        (Order, {"items": [3]}, "the payload does not fit Order: number: Field required; items.0: Input should be"),
        (list[Point], [{"x": "?"}], "0.x: Input should be a valid integer"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_key_paths(annotation: Any, sent: Any, text: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(annotation)(encode_value(sent))

    assert text in str(raised.value)
    assert raised.value.reason == "payload"


def test_a_fault_does_not_show_the_input() -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(Order)(encode_value({"number": "secret"}))

    assert "secret" not in str(raised.value)


def test_no_payload_is_told_as_none() -> None:
    with pytest.raises(DecodeError, match=r"the payload is \(none\)"):
        decoder_for(dict)(b"")
    assert decode_value(b"") is None


def test_an_annotation_that_no_payload_can_fit_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="no payload can be read as"):
        decoder_for(decimal.Context)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "nan has no form in JSON"),
        ({"scores": np.array([[0.5, math.nan]])}, "nan at scores.0.1 has no form in JSON"),
        (np.float32("inf"), "inf has no form in JSON"),
        ({"a": [1, {"b": math.inf}]}, "inf at a.1.b has no form in JSON"),
        (Point(1, math.nan), "nan at y has no form in JSON"),  # type: ignore[arg-type]  # as a handler might
        ({"a": 2**64}, "the integer at a is beyond 64 bits"),
        ({"a": {1, 2}}, "set at a has no form in JSON; return JSON-able values, bytes or a protobuf message"),
        ({"a": decimal.Decimal(1)}, "Decimal at a has no form in JSON"),
        ({"a": {(1, 2): 3}}, "key (1, 2) at a is no text"),
        ({1: 2}, "Dict key must be str"),
        ("\ud800", "str has no form in JSON"),
        (object(), "object has no form in JSON"),
    ],
)
def test_a_value_without_a_form_is_refused_with_its_key_path(value: Any, text: str) -> None:
    with pytest.raises(EncodeError) as raised:
        encode_value(value)

    assert text in str(raised.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value

    with pytest.raises(EncodeError, match="nested too deeply"):
        encode_value(value)


@pytest.mark.parametrize("value", [{"a": 1}, b"x" * 200, "", b""])
def test_a_payload_that_was_cut_off_is_refused(value: Any) -> None:
    whole = encode_value(value)
    decode = decoder_for(bytes if isinstance(value, bytes) else type(value))

    for length in range(len(whole)):
        cut = whole[:length]
        try:
            assert decode(cut) == b"", cut
        except DecodeError as error:
            assert error.reason in ("payload", "payload-type")


@pytest.mark.parametrize("value", [{"a": None}, [None], "null", {"null": "x"}])
def test_none_inside_of_a_value_is_no_fault(value: Any) -> None:
    assert decode_value(encode_value(value)) == value


def test_dates_enums_and_uuids_become_text() -> None:
    value = {"d": datetime.date(2026, 1, 2), "u": uuid.UUID(int=1), "e": Color.RED}

    assert decode_value(encode_value(value)) == {
        "d": "2026-01-02", "u": "00000000-0000-0000-0000-000000000001", "e": "red",
    }  # fmt: skip


def test_an_any_is_not_packed_twice() -> None:
    packed = decode_any(encode_value({"a": 1}))

    assert encode_value(packed) == encode_value({"a": 1})


def test_bytes_are_those_that_protobuf_itself_writes() -> None:
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.BytesValue(value=b"x" * 1_000))

    assert encode_value(b"x" * 1_000) == packed.SerializeToString()


def test_a_payload_is_described_by_its_type() -> None:
    assert describe_type(encode_value(1)) == "krt.Json"
    assert describe_type(b"") == "(none)"
