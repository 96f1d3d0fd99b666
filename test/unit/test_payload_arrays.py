"""Arrays as payloads: exact round trips, no copy on reading, and the refusal of what is none."""

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runtime import wire
from runtime.errors import DecodeError, EncodeError
from runtime.message import Message, MessageType
from runtime.payload import codec, decode_value, decoder_for, describe, encode_result, encode_value
from runtime.proto import natives, varint
from runtime.proto.packed import any_head, whole

Array = np.ndarray[Any, np.dtype[Any]]

dtypes: st.SearchStrategy[Any] = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    arrays.byte_string_dtypes(endianness="?", min_len=1),
    arrays.unicode_string_dtypes(endianness="?", min_len=1),
    arrays.datetime64_dtypes(endianness="?"),
    arrays.timedelta64_dtypes(endianness="?"),
)
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def laid_out(draw: st.DrawFn) -> Array:
    """Return an array that lies in memory in any way: cut, reversed, turned over."""
    array: Array = draw(arrays.arrays(draw(dtypes), draw(shapes)))
    for axis in range(array.ndim):
        step = draw(st.sampled_from((1, 2, -1, -3)))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    return array.transpose(draw(st.permutations(range(array.ndim))))


def same(one: Array, other: Array) -> bool:
    """Say whether two arrays are the same to the last bit, NaNs with their payloads included."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(laid_out())
def test_an_array_comes_back_exactly_whatever_its_dtype_order_and_strides(array: Array) -> None:
    received = decoder_for(np.ndarray)(encode_value(array))

    assert same(received, array)
    assert received.dtype.byteorder == array.dtype.byteorder
    assert received.flags.c_contiguous
    assert same(decode_value(encode_value(array)), array)


@given(st.integers(0, 300), st.sampled_from(("<f8", ">i2", "|u1", "<c16")), st.integers(0, 5))
def test_an_array_is_read_where_it_lies_aligned_and_not_to_be_written(size: int, dtype: str, dims: int) -> None:
    payload = encode_value(np.zeros((1,) * dims + (size,), dtype))
    received = decoder_for(np.ndarray)(payload)

    assert received.base is payload
    assert received.flags.aligned
    assert not received.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        received[...] = 1
    received.copy()[...] = 1


def test_an_array_that_lies_askew_is_read_all_the_same() -> None:
    dtype, data = b"<f4", np.arange(3, dtype="<f4").tobytes()
    inner = b"\x0a\x03" + dtype + b"\x12\x01\x03" + b"\x22" + varint(len(data)) + data
    payload = any_head("krt.Array") + varint(len(inner)) + inner

    received = decoder_for(np.ndarray)(payload)

    assert received.tolist() == [0.0, 1.0, 2.0]
    assert (received + 1).sum() == 6.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([{}, None]), "dtype object .* return array.tolist()"),
        (np.zeros(2, [("a", "f4"), ("b", "O")]), "return a table, or an array for each field"),
        (np.zeros(2, [("a", "f4")]), "return a table, or an array for each field"),
        (np.zeros(2, "V4"), "convert it with array.astype"),
        (np.zeros(2, np.longdouble), "convert it with array.astype"),
        (np.array(["a"], np.dtypes.StringDType()), "convert it with array.astype"),
        (np.ma.masked_array([1, 2], [True, False]), r"return array.filled\(value\)"),
    ],
)
def test_an_array_without_a_form_is_refused_with_its_dtype_and_the_way_out(value: Array, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        encode_value(value)


@pytest.mark.parametrize(
    ("annotation", "sent", "fits"),
    [
        (npt.NDArray[np.float32], np.zeros(2, "<f4"), True),
        (npt.NDArray[np.float32], np.zeros(2, ">f4"), True),
        (npt.NDArray[np.float32], np.zeros(2, "<f8"), False),
        (npt.NDArray[np.floating], np.zeros(2, "<f2"), True),
        (npt.NDArray[np.floating], np.zeros(2, "<i2"), False),
        (npt.NDArray[np.float32 | np.uint8], np.zeros(2, "|u1"), True),
        (npt.NDArray[np.float32 | np.uint8], np.zeros(2, "|i1"), False),
        (npt.NDArray[np.str_], np.array(["a"]), True),
        (npt.NDArray[Any], np.zeros(2, "<i2"), True),
        (np.ndarray[tuple[int, int], np.dtype[np.uint8]], np.zeros((2, 2), "|u1"), True),
    ],
)
def test_the_dtype_of_an_annotation_is_checked(annotation: Any, sent: Array, fits: bool) -> None:
    decode = decoder_for(annotation)

    if fits:
        assert same(decode(encode_value(sent)), sent)
        return
    with pytest.raises(DecodeError, match=f"the payload is an array of {sent.dtype}") as raised:
        decode(encode_value(sent))
    assert raised.value.reason == "payload-type"


def test_a_wrong_dtype_is_told_with_both_names() -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(npt.NDArray[np.float32])(encode_value(np.zeros(2)))

    assert str(raised.value) == "the handler takes an array of float32, the payload is an array of float64"


@pytest.mark.parametrize(
    ("annotation", "sent", "text"),
    [
        (np.ndarray, [1, 2], "the handler takes krt.Array, the payload is krt.Json"),
        (list, np.zeros(2), "the handler takes krt.Json, the payload is krt.Array"),
        (bytes, np.zeros(2), "the handler takes google.protobuf.BytesValue, the payload is krt.Array"),
    ],
)
def test_another_kind_of_payload_is_told_with_both_names(annotation: Any, sent: Any, text: str) -> None:
    with pytest.raises(DecodeError) as raised:
        decoder_for(annotation)(encode_value(sent))

    assert (str(raised.value), raised.value.reason) == (text, "payload-type")


def test_arrays_inside_of_json_are_lists_and_numbers_stay_json() -> None:
    value = {"id": 3, "image": np.arange(6).reshape(2, 3), "score": np.float32(0.5)}

    assert decode_value(encode_value(value)) == {"id": 3, "image": [[0, 1, 2], [3, 4, 5]], "score": 0.5}
    assert decoder_for(float)(encode_value(np.float64(0.5))) == 0.5


def test_an_array_is_the_raw_any_where_numpy_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encode_value(np.zeros(2))
    monkeypatch.setitem(sys.modules, "runtime.payload_arrays", None)
    codec.cache_clear()

    value = decode_value(payload)

    assert isinstance(value, any_pb2.Any)
    assert describe(payload) == "Array float64 (2,), 16 bytes"


# --- what comes from others ---


def written(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    return whole(natives.write_array(dtype, shape, memoryview(data)))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (written("<f4", (3,), b"1234"), "it has 4 bytes"),
        (written("<f4", (2**62, 2**62), b""), "it has 0 bytes"),
        (written("<f4", (2**63, 0), b""), "is no array of dtype '<f4'"),
        (written("<f4", (2**33, 0, 2**33), b""), "is no array of dtype '<f4'"),
        (written("<f4", (1,) * 65, b"1234"), "65 dimensions"),
        (written("<f4", (1,) * 1_000, b"1234"), "more than 64 dimensions"),
        (written("|S2147483648", (1,), b"1234"), "is no array of dtype"),
        (written("<U1", (1,), b"\xff\xff\xff\xff"), "characters beyond Unicode"),
        (written(">U1", (1,), b"\xff\xff\xff\xff"), "characters beyond Unicode"),
        (written("<M8[0s]", (1,), b"12345678"), "dtype '<M8\\[0s\\]' and shape .*does not travel"),
        (written("|O", (1,), b"12345678"), "does not travel"),
        (written("|S0", (2**40,), b""), "does not travel"),
        (written("<f4,<f4", (1,), b"12345678"), "does not travel"),
        (written("[('a', 'f4')]", (1,), b"1234"), "does not travel"),
        (written("", (), b""), "dtype '' and shape .*does not travel"),
        (written("x" * 5_000, (), b""), "dtype 'x{50}' and"),
        (any_head("krt.Array") + b"\x02\x0a\x05", "cut off"),
        (any_head("krt.Array") + b"\x04\x0a\x02\xff\xfe", "no UTF-8"),
        (any_head("krt.Array") + b"\x02\x0b\x00", "unexpected field"),
        (any_head("krt.Array") + varint(400) + b"\x38\x01" * 200, "unexpected field"),
        (any_head("krt.Array") + b"\x01", "cut off"),
    ],
)
def test_what_is_no_array_is_refused_before_anything_is_allocated(payload: bytes, text: str) -> None:
    assert _peak_bytes(lambda: _refused(payload, text)) < 200_000


def test_a_shape_that_is_not_packed_is_read() -> None:
    inner = b"\x0a\x03|u1" + b"\x10\x02" + b"\x10\x03" + b"\x22\x06abcdef"
    payload = any_head("krt.Array") + varint(len(inner)) + inner

    assert decoder_for(np.ndarray)(payload).shape == (2, 3)


@given(laid_out(), st.data())
def test_bytes_that_were_changed_are_read_or_refused(array: Array, data: st.DataObject) -> None:
    payload = bytearray(encode_value(array))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        received = decoder_for(np.ndarray)(bytes(payload))
    except DecodeError as error:
        assert error.reason in ("payload", "payload-type")
    else:
        received.tolist()


@given(st.binary(max_size=60))
def test_any_bytes_of_the_type_are_read_or_refused(inner: bytes) -> None:
    try:
        decoder_for(np.ndarray)(any_head("krt.Array") + varint(len(inner)) + inner)
    except DecodeError as error:
        assert error.reason == "payload"


def _refused(payload: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as raised:
        decoder_for(np.ndarray)(payload)
    assert raised.value.reason == "payload"


# --- the form on the wire, and what it costs ---


@given(arrays.arrays(np.dtype("<f4"), shapes))
def test_the_bytes_are_those_that_protobuf_itself_writes(array: Array) -> None:
    payload = encode_value(array)

    packed = any_pb2.Any.FromString(payload)
    read = _array_message()()
    read.ParseFromString(packed.value)

    assert (packed.type_url, read.dtype) == ("type.googleapis.com/krt.Array", array.dtype.str)
    assert (tuple(read.shape), read.data) == (array.shape, array.tobytes())
    assert not any(read.padding)
    if read.padding and array.size and array.ndim:  # protobuf leaves out what is empty
        assert packed.SerializeToString() == payload
        assert read.SerializeToString() == packed.value


def test_an_array_is_described_without_its_library() -> None:
    payload = encode_value(np.zeros((3, 224, 224), np.float32))

    assert describe(payload) == "Array float32 (3, 224, 224), 602,112 bytes"
    assert describe(encode_value(np.zeros(2, "M8[s]"))) == "Array <M8[s] (2,), 16 bytes"
    assert describe(encode_value([1])) == ""


def test_an_array_of_1_mb_is_copied_once_on_its_way_in_and_once_on_its_way_out() -> None:
    array = np.arange(125_000, dtype=np.float64)
    size = array.nbytes
    request = Message(request_id="r", payload=encode_value(array), reply_to="_INBOX.a", headers={"kind": "scan"})
    arrived = wire.encode(request)
    decode = decoder_for(npt.NDArray[np.float64])

    def receive() -> tuple[Message, Any]:
        message = wire.decode(arrived)
        return message, decode(message.payload)

    message, received = receive()

    def send() -> bytes:
        return wire.encode_output(message, encode_result(received), from_node="n", kind=MessageType.OK)

    assert same(received, array)
    assert same(decode(wire.decode(send()).payload), array)
    # Nothing of it is hidden from tracemalloc: a payload of this size never reaches protobuf, whose memory is its own.
    assert size <= _peak_bytes(receive) < 1.05 * size
    assert size <= _peak_bytes(send) < 1.05 * size


def test_a_large_payload_does_not_pass_through_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, sizes = wire._parse, list[int]()

    def watched(data: bytes) -> Any:
        sizes.append(len(data))
        return parse(data)

    monkeypatch.setattr(wire, "_parse", watched)
    arrived = wire.encode(Message(request_id="r", payload=encode_value(np.zeros(125_000)), reply_to="_INBOX.a"))

    wire.decode(arrived)

    assert len(sizes) == 1
    assert sizes[0] < 100


def _peak_bytes(call: Callable[[], object]) -> int:
    """Return how many bytes of memory a call needs at most, beside what is there already."""
    call()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _array_message() -> Any:
    """Return the class of `krt.Array` as a program has it that was generated from the documented message."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="array.proto", package="krt", syntax="proto3")
    message = file.message_type.add(name="Array")
    for number, (name, kind, label) in enumerate(
        (
            ("dtype", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL),
            ("shape", kinds.TYPE_UINT64, kinds.LABEL_REPEATED),
            ("padding", kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL),
            ("data", kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL),
        ),
        start=1,
    ):
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("krt.Array"))
