"""Which of KRE's two wire versions some bytes are of. A check and never a choice: a runner is told its version.

The versions use the same field numbers with other meanings, so bytes of one often parse as the other without an error.

| field | first version | second version |
|---|---|---|
| 2 | tracking, repeated | payload |
| 4 | payload, a `google.protobuf.Any` | from_node, text |
| 5 | error, text | message_type, a number |
| 6, 7 | replied, early_exit | |
"""

from runtime.errors import DecodeError
from runtime.proto import read_varint

# Protobuf's wire types.
_NUMBER, _EIGHT_BYTES, _CONTENT, _FOUR_BYTES = 0, 1, 2, 5
# What the type of every `Any` begins with; no node has it in its name.
_TYPE_PREFIX = b"type.googleapis.com/"


def refuse_first(data: bytes) -> None:
    """Raise DecodeError with the reason `wire` when the bytes can only be of the first version."""
    entries = 0
    for number, wire_type, content in _fields(data):
        entries += number == 2
        if (
            entries > 1
            or number in (6, 7)
            or (number == 5 and wire_type == _CONTENT)
            or (number == 4 and _TYPE_PREFIX in content)
        ):
            raise DecodeError("this looks like KRE's first wire version; set KRT_WIRE=v1", reason="wire")


def refuse_second(data: bytes) -> None:
    """Raise DecodeError with the reason `wire` when the bytes can only be of the second version."""
    if any(number == 5 and wire_type == _NUMBER for number, wire_type, _ in _fields(data)):
        raise DecodeError("this looks like KRE's second wire version; set KRT_WIRE=v2", reason="wire")


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return number, wire type and content (where it has one) of each top-level field; none of bytes that are cut."""
    found = []
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        content = b""
        if wire_type == _NUMBER:
            _, position = read_varint(data, position)
        elif wire_type == _CONTENT:
            length, start = read_varint(data, position)
            position = start + length
            content = data[start:position]
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if wire_type == _EIGHT_BYTES else 4
        else:  # a group: neither version has one
            return []
        found.append((number, wire_type, content))
    return found if position == len(data) else []
