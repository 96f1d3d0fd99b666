"""The messages of native values on the wire: arrays, tables and files. Without the libraries that they are made for.

message Array {
  string dtype = 1;           // as numpy writes it, with the byte order: "<f4", ">i2", "|u1", "<M8[ns]"
  repeated uint64 shape = 2;  // none for a single value
  bytes padding = 3;          // zeros; they put `data` at a multiple of 16 of the payload
  bytes data = 4;             // in C order
}
message Table {
  bytes padding = 1;          // as above
  bytes stream = 2;           // an Arrow IPC stream, not compressed
}
message File {
  string content_type = 1;
  string name = 2;
  bytes data = 3;
}
"""

from collections.abc import Sequence
from typing import NamedTuple

from runtime.errors import DecodeError
from runtime.message import Payload
from runtime.proto import read_varint, varint
from runtime.proto.packed import any_head, field, fields, message_start

ARRAY_TYPE, TABLE_TYPE, FILE_TYPE = "krt.Array", "krt.Table", "krt.File"

# Of a payload that is bytes of its own, the memory begins at a multiple of this, and no number needs a greater one:
# reading numbers that lie askew takes several times as long.
ALIGNMENT = 16
# Dimensions of an array, at most; numpy's own limit.
MAX_DIMENSIONS = 64

_ARRAY_HEAD, _TABLE_HEAD, _FILE_HEAD = any_head(ARRAY_TYPE), any_head(TABLE_TYPE), any_head(FILE_TYPE)
# Of dtypes, by their letter.
_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
# Bytes of a number on the wire, at most.
_MAX_VARINT_BYTES = 10


class ArrayFields(NamedTuple):
    """An array as it travels. begin, end: where its data lies in the payload."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class FileFields(NamedTuple):
    """A file as it travels. begin, end: where its data lies in the payload."""

    content_type: str
    name: str
    begin: int
    end: int


def write_array(dtype: str, shape: Sequence[int], data: memoryview) -> Payload:
    """Return the payload of an array whose data is `data`, bytes in C order."""
    dims = b"".join(map(varint, shape))
    named = dtype.encode()
    before = field(1, len(named)) + named + (field(2, len(dims)) + dims if dims else b"")
    return _aligned(_ARRAY_HEAD, before, 3, data)


def read_array(payload: bytes) -> ArrayFields | None:
    """Return what an array consists of, None for a payload of another type. Raises DecodeError."""
    start = message_start(payload, _ARRAY_HEAD)
    if start is None:
        return None
    dtype, shape, begin, end = "", list[int](), start, start
    for each in fields(payload, start):
        if each.number == 1:
            dtype = _text(payload, each.begin, each.end)
        elif each.number == 2:
            shape += _numbers(payload, each.begin, each.end) if each.value is None else [each.value]
        elif each.number == 4:
            begin, end = each.begin, each.end
    if len(shape) > MAX_DIMENSIONS:
        raise DecodeError(f"the array has {len(shape)} dimensions; {MAX_DIMENSIONS} are possible", reason="payload")
    return ArrayFields(dtype, tuple(shape), begin, end)


def dtype_name(dtype: str) -> str:
    """Return a dtype as people know it, `float32` for `<f4`; one that is no number stays as it is."""
    kind = _KINDS.get(dtype[1:2])
    return f"{kind}{8 * int(dtype[2:])}" if kind and dtype[2:].isdecimal() else dtype


def write_table(stream: memoryview) -> Payload:
    """Return the payload of a table."""
    return _aligned(_TABLE_HEAD, b"", 1, stream)


def read_table(payload: bytes) -> tuple[int, int] | None:
    """Return where an Arrow IPC stream begins and ends, None for a payload of another type. Raises DecodeError."""
    start = message_start(payload, _TABLE_HEAD)
    if start is None:
        return None
    begin, end = start, start
    for each in fields(payload, start):
        if each.number == 2:
            begin, end = each.begin, each.end
    return begin, end


def write_file(content_type: str, name: str, data: bytes) -> Payload:
    """Return the payload of a file."""
    texts = [(number, text.encode()) for number, text in ((1, content_type), (2, name)) if text]
    start = b"".join(field(number, len(text)) + text for number, text in texts) + field(3, len(data))
    return _FILE_HEAD, varint(len(start) + len(data)), start, data


def read_file(payload: bytes) -> FileFields | None:
    """Return what a file consists of, None for a payload of another type. Raises DecodeError."""
    start = message_start(payload, _FILE_HEAD)
    if start is None:
        return None
    content_type, name, begin, end = "", "", start, start
    for each in fields(payload, start):
        if each.number == 1:
            content_type = _text(payload, each.begin, each.end)
        elif each.number == 2:
            name = _text(payload, each.begin, each.end)
        elif each.number == 3:
            begin, end = each.begin, each.end
    return FileFields(content_type, name, begin, end)


def _aligned(head: bytes, before: bytes, number: int, data: memoryview) -> Payload:
    """Return the payload of a message that ends with a field of padding, with this number, and one with the data."""
    after = field(number + 1, len(data))
    fixed = len(before) + 2 + len(after)
    size = fixed + len(data)
    padding = -(len(head) + len(varint(size)) + fixed) % ALIGNMENT
    # The message's length stands before it, and may have grown by a byte with the padding.
    while (len(head) + len(varint(size + padding)) + fixed + padding) % ALIGNMENT:
        padding += 1
    return head, varint(size + padding), before + field(number, padding) + bytes(padding) + after, data


def _text(payload: bytes, begin: int, end: int) -> str:
    try:
        return payload[begin:end].decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a text in the payload is no UTF-8", reason="payload") from error


def _numbers(payload: bytes, begin: int, end: int) -> list[int]:
    if end - begin > MAX_DIMENSIONS * _MAX_VARINT_BYTES:
        raise DecodeError(f"the array has more than {MAX_DIMENSIONS} dimensions", reason="payload")
    numbers = []
    while begin < end:
        number, begin = read_varint(payload, begin)
        numbers.append(number)
    return numbers
