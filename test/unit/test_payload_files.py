"""Files as payloads: `runtime.File`, and plain bytes in its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import File
from runtime.errors import DecodeError
from runtime.payload import decode_value, decoder_for, describe, encode_value, json_form
from runtime.proto import natives, varint
from runtime.proto.packed import any_head, whole

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: text.isprintable())


@given(st.binary(max_size=200), st.sampled_from(("image/png", "text/plain; charset=utf-8", "a/b+c")), names)
def test_a_file_comes_back_as_it_was(data: bytes, content_type: str, name: str) -> None:
    file = File(data, content_type, name)

    assert decoder_for(File)(encode_value(file)) == file
    assert decode_value(encode_value(file)) == file


def test_plain_bytes_are_a_file_of_which_nobody_has_said_more() -> None:
    assert decoder_for(File)(encode_value(b"x")) == File(b"x", "application/octet-stream")


@pytest.mark.parametrize("content_type", ["", "png", "image/", "image/png\r\nSet-Cookie: a=b", "image/png; ü", "a b/c"])
def test_a_content_type_that_is_none_is_refused(content_type: str) -> None:
    with pytest.raises(ValueError, match="is none; give one as image/png"):
        File(b"", content_type)


@pytest.mark.parametrize("name", ["a\nb", "\0", "x" * 256])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="printable characters"):
        File(b"", "image/png", name)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (whole(natives.write_file("image/png\r\n", "", b"")), "the payload is no file: content type"),
        (whole(natives.write_file("image/png", "a\0", b"")), "the payload is no file: name"),
        (any_head("krt.File") + b"\x02\x0a\x05", "cut off"),
    ],
)
def test_what_is_no_file_is_refused(payload: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as raised:
        decoder_for(File)(payload)

    assert raised.value.reason == "payload"


@given(st.binary(max_size=60))
def test_any_bytes_of_the_type_are_read_or_refused(inner: bytes) -> None:
    try:
        decoder_for(File)(any_head("krt.File") + varint(len(inner)) + inner)
    except DecodeError as error:
        assert error.reason == "payload"


def test_json_is_no_file() -> None:
    with pytest.raises(DecodeError, match=r"the handler takes krt\.File, the payload is krt\.Json"):
        decoder_for(File)(encode_value({"a": 1}))


def test_a_file_is_base64_in_json_and_a_line_for_people() -> None:
    file = File(b"123", "image/png", "cat.png")

    assert json_form(file) == {
        "data": {"base64": "MTIz"}, "content_type": "image/png", "name": "cat.png",
    }  # fmt: skip
    assert describe(encode_value(file)) == "File image/png 'cat.png', 3 bytes"
    assert repr(file) == "<File image/png 'cat.png' 3 bytes>"
