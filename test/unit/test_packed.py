"""A content in an Any: what is wrapped is found again, by whatever lengths it was written with."""

import pytest
from google.protobuf import any_pb2, wrappers_pb2

from runtime.errors import DecodeError
from runtime.proto.packed import any_head, content_of, whole, wrapped

HEAD = any_head(wrappers_pb2.BytesValue.DESCRIPTOR.full_name)
# Where one of the two lengths takes a byte more, and the sizes around.
EDGES = [edge + delta for edge in (2, 1 << 7, 1 << 14, 1 << 21) for delta in range(-5, 3) if edge + delta >= 0]


@pytest.mark.parametrize("size", EDGES)
def test_what_is_wrapped_is_read_by_us_and_by_protobuf(size: int) -> None:
    content = b"x" * size

    payload = whole(wrapped(HEAD, content))

    assert content_of(payload, HEAD) == content
    value = wrappers_pb2.BytesValue()
    assert any_pb2.Any.FromString(payload).Unpack(value)
    assert value.value == content


@pytest.mark.parametrize("size", [edge for edge in EDGES if edge > 0])
def test_what_protobuf_writes_is_read(size: int) -> None:
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.BytesValue(value=b"y" * size))

    assert content_of(packed.SerializeToString(), HEAD) == b"y" * size


def test_lengths_that_are_longer_than_they_need_to_be_are_read() -> None:
    assert content_of(HEAD + b"\x85\x00\x0a\x82\x00ab", HEAD) == b"ab"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_what_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        content_of(whole(wrapped(HEAD, b"abc"))[:-cut], HEAD)


def test_an_any_of_another_type_has_no_such_content() -> None:
    assert content_of(whole(wrapped(any_head("krt.Json"), b"1")), HEAD) is None
    assert content_of(b"", HEAD) is None
