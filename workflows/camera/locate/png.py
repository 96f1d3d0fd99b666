"""Gray PNG pictures of 8 bits without a package: enough for this example. See https://www.w3.org/TR/png-3/."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth, colour type, compression, filter and interlace of the only kind that is read and written here.
GRAY = (8, 0, 0, 0, 0)


def read_gray(data: bytes) -> list[bytes]:
    """Return the rows of a picture, a byte for each pixel. Raises ValueError for any other kind of picture."""
    if not data.startswith(SIGNATURE):
        raise ValueError("this is no PNG picture")
    chunks = list(_chunks(data))
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[0][1])
    if tuple(kind) != GRAY:
        raise ValueError("this picture is not gray with 8 bits and without interlacing")
    lines = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    rows, above = [], bytes(width)
    for start in range(0, height * (width + 1), width + 1):
        above = _unfiltered(lines[start], lines[start + 1 : start + 1 + width], above)
        rows.append(above)
    return rows


def write_gray(rows: list[bytes]) -> bytes:
    """Return a picture of these rows."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), *GRAY)
    lines = zlib.compress(b"".join(b"\0" + row for row in rows))
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", lines) + _chunk(b"IEND", b"")


def _chunks(data: bytes):
    at = len(SIGNATURE)
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        yield name, data[at + 8 : at + 8 + length]
        at += length + 12


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """Return the pixels of a line, which is stored as differences to its neighbours."""
    row = bytearray(len(line))
    for x, difference in enumerate(line):
        left, up, corner = (row[x - 1], above[x], above[x - 1]) if x else (0, above[x], 0)
        predicted = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        row[x] = (difference + predicted) & 0xFF
    return bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda each: abs(estimate - each))
