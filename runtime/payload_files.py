"""`runtime.File`: bytes with a content type, as a payload of their own."""

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import wrappers_pb2

from runtime.errors import DecodeError
from runtime.message import Payload
from runtime.proto import natives
from runtime.proto.packed import any_head, content_start

# What bytes are of which nobody has said more.
BYTES_CONTENT = "application/octet-stream"
# Characters of a name, at most.
MAX_NAME_CHARACTERS = 255

_BYTES_HEAD = any_head(wrappers_pb2.BytesValue.DESCRIPTOR.full_name)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A media type as HTTP has it. It becomes a header, so nothing else may be in it.
_CONTENT_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}( *;[ -~]*)?")


@dataclass(frozen=True, slots=True, repr=False)
class File:
    """An image, a document or any other file: `File(data, "image/png", "cat.png")`.

    content_type: a media type, with or without parameters. name: of the file, without a folder; "" for none.
    Raises ValueError for another content type or name.
    """

    data: bytes
    content_type: str
    name: str = ""

    def __post_init__(self) -> None:
        if not _CONTENT_TYPE.fullmatch(self.content_type):
            raise ValueError(f"content type {self.content_type[:80]!r} is none; give one as image/png")
        if len(self.name) > MAX_NAME_CHARACTERS or not (self.name.isprintable() or not self.name):
            raise ValueError(f"name {self.name[:80]!r} is none; give up to {MAX_NAME_CHARACTERS} printable characters")

    def __repr__(self) -> str:
        return f"<File {self.content_type} {self.name!r} {len(self.data):,} bytes>"


def encode(file: File) -> Payload:
    """Return the payload of a file, which refers to its data."""
    return natives.write_file(file.content_type, file.name, file.data)


def decoder(annotation: type[File]) -> Callable[[bytes], File | None]:
    """Return what reads a payload as a file; plain bytes are one of which nobody has said more."""
    return _decode_lenient


def decode(payload: bytes) -> File | None:
    """Return the file in a payload, None for a payload of another type. Raises DecodeError."""
    fields = natives.read_file(payload)
    if fields is None:
        return None
    try:
        return File(payload[fields.begin : fields.end], fields.content_type or BYTES_CONTENT, fields.name)
    except ValueError as error:
        raise DecodeError(f"the payload is no file: {error}", reason="payload") from error


def json_form(file: File) -> dict[str, Any]:
    """Return a file as a mapping, as orjson writes one, too."""
    data = {"base64": b64encode(file.data).decode()}
    return {"data": data, "content_type": file.content_type, "name": file.name}


def _decode_lenient(payload: bytes) -> File | None:
    file = decode(payload)
    if file is None and (start := content_start(payload, _BYTES_HEAD)) is not None:
        return File(payload[start:], BYTES_CONTENT)
    return file
