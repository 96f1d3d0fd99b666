"""Payloads: what a handler receives for its annotation, and what its results become on the wire.

| annotation of `data` | received |
|---|---|
| none, `Any`, `object`, `any_pb2.Any`, `Message` | the raw `google.protobuf.Any`, as KRE handlers expect |
| a protobuf message class | unpacked; another type is a DecodeError with both names |
| `bytes` | the bytes |
| `numpy.ndarray`, `numpy.typing.NDArray[numpy.float32]` | an array, of this dtype; read-only |
| `pyarrow.Table`, `pyarrow.RecordBatch`, `pandas.DataFrame` | a table |
| `runtime.File` | a file; plain bytes, too |
| anything else pydantic knows: models, dataclasses, dict, list, str, int, float … | JSON, validated |

Results: protobuf messages are packed, `bytes` travel as `google.protobuf.BytesValue`, a whole array, table or file as
`krt.Array`, `krt.Table` or `krt.File`, everything else as `krt.Json` (field 1 = UTF-8 JSON), in which arrays are lists.
A payload here is always a serialised `Any`.
"""

import contextlib
import dataclasses
import functools
import importlib
import sys
import typing
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import orjson
import pydantic
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message as ProtobufMessage

from runtime import payload_files
from runtime.errors import DecodeError, EncodeError
from runtime.message import Payload
from runtime.payload_files import File
from runtime.payload_json import encode_json as encode_json
from runtime.proto import natives
from runtime.proto.packed import TYPE_PREFIX as TYPE_PREFIX
from runtime.proto.packed import any_head, content_of, whole, wrapped

JSON_TYPE = "krt.Json"
BYTES_TYPE = wrappers_pb2.BytesValue.DESCRIPTOR.full_name

Decoder = Callable[[bytes], Any]

_RAW = (Any, object, any_pb2.Any, ProtobufMessage)
# Most results; looked up first, because asking whether something is a protobuf message is slow.
_PLAIN_TYPES = frozenset((dict, str, int, float, list, tuple, bool))


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedPayload:
    """A result that is a payload already, which somebody else has made of a value: it is sent as it is."""

    payload: Payload


_JSON_HEAD = any_head(JSON_TYPE)
_BYTES_HEAD = any_head(BYTES_TYPE)


class Native(StrEnum):
    """Kinds of values with a payload of their own; the libraries of the first two are the user's."""

    ARRAY = "array"
    TABLE = "table"
    FILE = "file"


# Module, class in it, kind.
_NATIVE_CLASSES = (
    ("numpy", "ndarray", Native.ARRAY),
    ("pyarrow", "Table", Native.TABLE),
    ("pyarrow", "RecordBatch", Native.TABLE),
    ("pandas", "DataFrame", Native.TABLE),
    (payload_files.__name__, File.__name__, Native.FILE),
)
_NATIVE_TYPES = {
    Native.ARRAY: natives.ARRAY_TYPE,
    Native.TABLE: natives.TABLE_TYPE,
    Native.FILE: natives.FILE_TYPE,
}
_NATIVE_HEADS = {any_head(name): native for native, name in _NATIVE_TYPES.items()}


def decoder_for(annotation: Any) -> Decoder:
    """Return the function that turns a payload into what `annotation` asks for. Each call may raise DecodeError.

    Raises TypeError when no payload can ever fit the annotation.
    """
    if annotation in _RAW:
        return decode_any
    if isinstance(annotation, type) and issubclass(annotation, ProtobufMessage):
        return _protobuf_decoder(annotation)
    if annotation is bytes:
        return _decode_bytes
    if annotation in (dict, list):
        return _plain_decoder(annotation)
    if (native := native_kind(annotation)) is not None:
        return _native_decoder(native, annotation)
    try:
        adapter = pydantic.TypeAdapter(annotation)
    except pydantic.errors.PydanticUserError as error:
        raise TypeError(f"no payload can be read as {annotation!r}: {error.message}") from error
    return _json_decoder(adapter, annotation)


def decode_any(payload: bytes) -> any_pb2.Any:
    """Return the raw `Any` of the default pool, which is what a handler's own generated code works with."""
    try:
        # What protobuf reads is bytes, and not memory that is shared with another process.
        return any_pb2.Any.FromString(payload if isinstance(payload, bytes) else bytes(payload))
    except ProtobufError as error:
        raise DecodeError(f"the payload is no google.protobuf.Any: {error}", reason="payload") from error


def decode_value(payload: bytes) -> Any:
    """Return a payload of unknown kind as plainly as possible: JSON value, bytes, File, array or table; b"" is None.

    Anything else is the raw `Any`, and so are arrays and tables where numpy or pyarrow are not installed.
    """
    if not payload:
        return None
    content = content_of(payload, _JSON_HEAD)
    if content is not None:
        return _loads(content)
    content = content_of(payload, _BYTES_HEAD)
    if content is not None:
        return content
    native = next((native for head, native in _NATIVE_HEADS.items() if payload.startswith(head)), None)
    if native is not None:
        with contextlib.suppress(ImportError):
            return codec(native).decode(payload)
    return decode_any(payload)


def json_text(payload: bytes) -> bytes:
    """Return the JSON of a payload as it was written, whether it travels as JSON or as bytes. Raises DecodeError."""
    for head in (_JSON_HEAD, _BYTES_HEAD):
        content = content_of(payload, head) if payload else None
        if content is not None:
            return content
    raise _wrong_type(JSON_TYPE, payload)


def json_value(payload: bytes) -> Any:
    """Return the value of a payload that is JSON, whether it travels as JSON or as bytes. Raises DecodeError."""
    return _loads(json_text(payload))


def encode_value(value: Any) -> bytes:
    """Return the payload of one value. Raises EncodeError naming the type, or the key path of what does not fit."""
    return whole(encode_result(value))


def encode_result(value: Any) -> Payload:
    """Return the payload of one value in pieces, of which a large one is the value's own memory.

    To be put into its envelope before anybody can change the value. Raises as `encode_value` does.
    """
    if type(value) not in _PLAIN_TYPES:
        if isinstance(value, EncodedPayload):
            return value.payload
        if isinstance(value, ProtobufMessage):
            return _encode_protobuf(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return wrapped(_BYTES_HEAD, bytes(value))
        if (native := native_of(value)) is not None:
            return _encode_native(native, value)
    try:
        return wrapped(_JSON_HEAD, encode_json(value))
    except EncodeError as error:
        if error.__cause__ is None:  # NaN, whose type is right
            raise
        raise EncodeError(f"{error}; return JSON-able values, bytes or a protobuf message") from error


def describe_type(payload: bytes) -> str:
    """Return the full name of the payload's type, for messages and logs."""
    return decode_any(payload).type_url.rpartition("/")[2] or "(none)" if payload else "(none)"


def native_kind(annotation: Any) -> Native | None:
    """Return which native kind an annotation asks for, None for none. A subclass of such a class asks for nothing."""
    kind = typing.get_origin(annotation) or annotation
    return next((native for found, native in _loaded_classes() if found is kind), None)


def native_of(value: Any) -> Native | None:
    """Return the native kind of a value, None for none."""
    return next((native for found, native in _loaded_classes() if isinstance(value, found)), None)


@functools.cache
def codec(native: Native) -> Any:
    """Return the module that reads and writes a kind: `payload_arrays`, `payload_tables`, `payload_files`.

    Raises ImportError where its library is not installed.
    """
    return payload_files if native is Native.FILE else importlib.import_module(f"runtime.payload_{native}s")


def annotated_dtype(annotation: Any) -> str:
    """Return the name of the dtype that an annotation asks for, `float32`; "" for several, and for no array."""
    if native_kind(annotation) is not Native.ARRAY:
        return ""
    name: str = codec(Native.ARRAY).dtype_name(annotation)
    return name


def describe(payload: bytes) -> str:
    """Return a line about a native value: `Array float32 (3, 224, 224), 602,112 bytes`; "" for any other payload.

    Needs no library. Raises DecodeError.
    """
    if (array := natives.read_array(payload)) is not None:
        return f"Array {natives.dtype_name(array.dtype)} {array.shape}, {array.end - array.begin:,} bytes"
    if (table := natives.read_table(payload)) is not None:
        return f"Table, {table[1] - table[0]:,} bytes"
    if (file := natives.read_file(payload)) is not None:
        name = f" {file.name!r}" if file.name else ""
        return f"File {file.content_type}{name}, {file.end - file.begin:,} bytes"
    return ""


def json_form(value: Any) -> Any:
    """Return what stands in JSON for a native value: lists, rows, or a file's base64. Raises TypeError for all else."""
    native = native_of(value)
    if native is None:
        raise TypeError(f"type {type(value).__name__} has no JSON form")
    return codec(native).json_form(value)


# --- native values ---


def _loaded_classes() -> Iterator[tuple[type, Native]]:
    """Yield the classes of native values that this process has loaded: nobody can have, or name, one of another."""
    for module, name, native in _NATIVE_CLASSES:
        if (kind := getattr(sys.modules.get(module), name, None)) is not None:
            yield kind, native


def _encode_native(native: Native, value: Any) -> Payload:
    payload: Payload = codec(native).encode(value)
    return payload


def _native_decoder(native: Native, annotation: Any) -> Decoder:
    read: Callable[[bytes], Any] = codec(native).decoder(annotation)
    expected = _NATIVE_TYPES[native]

    def decode(payload: bytes) -> Any:
        value = read(payload)
        if value is None:
            raise _wrong_type(expected, payload)
        return value

    return decode


# --- reading ---


def _protobuf_decoder(kind: type[ProtobufMessage]) -> Decoder:
    expected = kind.DESCRIPTOR.full_name

    def decode(payload: bytes) -> ProtobufMessage:
        packed = decode_any(payload)
        if packed.type_url.rpartition("/")[2] != expected:
            raise _wrong_type(expected, payload)
        try:
            return kind.FromString(packed.value)
        except ProtobufError as error:
            raise DecodeError(f"the payload is no {expected}: {error}", reason="payload") from error

    return decode


def _decode_bytes(payload: bytes) -> bytes:
    content = content_of(payload, _BYTES_HEAD)
    if content is None:
        raise _wrong_type(BYTES_TYPE, payload)
    return content


def _plain_decoder(kind: type) -> Decoder:
    def decode(payload: bytes) -> Any:
        content = content_of(payload, _JSON_HEAD)
        if content is None:
            raise _wrong_type(JSON_TYPE, payload)
        value = _loads(content)
        if type(value) is not kind:
            raise DecodeError(
                f"the handler takes {kind.__name__}, the payload is {_kind(value)}", reason="payload-type"
            )
        return value

    return decode


def _json_decoder(adapter: pydantic.TypeAdapter[Any], annotation: Any) -> Decoder:
    name = getattr(annotation, "__name__", str(annotation))
    # A plain int, str, float or bool is never converted from another type: "5" is no number.
    strict = annotation in (int, str, float, bool)

    def decode(payload: bytes) -> Any:
        content = content_of(payload, _JSON_HEAD)
        if content is None:
            raise _wrong_type(JSON_TYPE, payload)
        try:
            return adapter.validate_json(content, strict=strict)
        except pydantic.ValidationError as error:
            raise DecodeError(f"the payload does not fit {name}: {_faults(error)}", reason="payload") from error

    return decode


def _loads(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"the payload is no JSON: {error}", reason="payload") from error


def _wrong_type(expected: str, payload: bytes) -> DecodeError:
    return DecodeError(f"the handler takes {expected}, the payload is {describe_type(payload)}", reason="payload-type")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _faults(error: pydantic.ValidationError) -> str:
    """Return every fault of a validation as `field.path: what`, without the input (it may be secret)."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']}" for fault in faults)


# --- writing ---


def _encode_protobuf(value: ProtobufMessage) -> bytes:
    if isinstance(value, any_pb2.Any):
        return value.SerializeToString()
    packed = any_pb2.Any()
    packed.Pack(value)
    return packed.SerializeToString()
