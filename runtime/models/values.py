"""Typed values of model calls: Python values <-> `Variant`, and plain arguments <-> `Argument` and `KwArgument`.

| type | Python value | bytes |
|---|---|---|
| NONE | None | none |
| DOUBLE | float; NaN and infinities, too | IEEE 754 binary64, little-endian, 8 bytes |
| INT | int of 64 bits | two's complement, little-endian, 8 bytes |
| STRING | str | UTF-8 |
| JSON | bool, dict, list, tuple, numpy arrays | UTF-8 text of one JSON value, as RFC 8259 has it |
| PARQUET | pandas DataFrame; a pyarrow Table is encoded, too | one Parquet file |
| ARROW | pyarrow Table; it comes back as a DataFrame | one Arrow IPC stream |

numpy's numbers are taken like Python's own. Tables need the extra `tables`; their codec is `tables.py`.
"""

import json
import operator
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NoReturn

from runtime.errors import DecodeError, EncodingError, InvalidCoordinatorUsageError
from runtime.proto.models import Argument as Argument
from runtime.proto.models import KwArgument as KwArgument
from runtime.proto.models import Variant as Variant

# Bytes of a number, whatever its type.
NUMBER_BYTES = 8

# What json, struct, pandas and pyarrow raise for a value, or for bytes, that they cannot make anything of.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

_POSITION = operator.attrgetter("position")

# One half of a character beyond the first 65,536, escaped; alone it is no text.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class VariantType(IntEnum):
    """How the bytes of a Variant are to be read."""

    NONE = 0
    DOUBLE = 1
    INT = 2
    STRING = 3
    PARQUET = 4
    ARROW = 5
    JSON = 6


def encode_data(data_type: int, value: Any) -> bytes:
    """Return the bytes of `value` as `data_type`. Raises EncodingError when it is no such value."""
    encode = _ENCODERS.get(data_type)
    if encode is None:
        raise EncodingError(_unknown(data_type))
    try:
        return encode(value)
    except EncodingError:
        raise
    except _FAILURES as error:
        name = VariantType(data_type).name
        raise EncodingError(f"a value of type '{type(value).__name__}' is no {name}: {error}") from error


def decode_data(data: bytes, data_type: int) -> Any:
    """Return the value of bytes that `encode_data` made. Raises DecodeError with the reason `payload`."""
    decode = _DECODERS.get(data_type)
    if decode is None:
        raise _unreadable(_unknown(data_type))
    try:
        return decode(data)
    except _FAILURES as error:
        raise _unreadable(f"{len(data)} bytes are no {VariantType(data_type).name}: {error}") from error


def detect_type(value: Any) -> VariantType:
    """Return the type as which a plain value is sent. Raises EncodingError for one that has none."""
    for kinds, data_type in _PYTHON_TYPES:
        if isinstance(value, kinds):
            return data_type
    for module, name, data_type in _LIBRARY_TYPES:
        # Whoever has a value of a library has loaded it; so nothing has to be imported to ask.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            return data_type
    kind = type(value)
    raise EncodingError(
        f"{kind.__module__}.{kind.__qualname__} is no value of a model call; send None, bool, int, float, str, dict, "
        "list, tuple, a numpy array, a pandas DataFrame or a pyarrow Table"
    )


def to_variant(value: Any) -> Any:
    """Return the Variant of a plain value; a Variant is returned as it is. Raises EncodingError."""
    if isinstance(value, Variant):
        return value
    data_type = detect_type(value)
    return Variant(type=data_type, value=encode_data(data_type, value))


def from_variant(variant: Any) -> Any:
    """Return the value of a Variant. Raises DecodeError with the reason `payload`."""
    return decode_data(variant.value, variant.type)


def arguments_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return plain arguments as Arguments, with positions from 1, and KwArguments. Raises EncodingError naming one."""
    return (
        [
            Argument(position=position, data=_named_variant(f"argument {position}", value))
            for position, value in enumerate(args, start=1)
        ],
        [
            KwArgument(keyword=keyword, data=_named_variant(f"argument {keyword!r}", value))
            for keyword, value in kwargs.items()
        ],
    )


def plain_arguments(arguments: Sequence[Any], keywords: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the values of Arguments in the order of their positions, and those of KwArguments by keyword.

    Raises InvalidCoordinatorUsageError as `check_arguments` does, and DecodeError.
    """
    check_arguments(arguments, keywords)
    in_order = sorted(arguments, key=_POSITION)
    return (
        [from_variant(argument.data) for argument in in_order],
        {keyword.keyword: from_variant(keyword.data) for keyword in keywords},
    )


def check_arguments(arguments: Sequence[Any], keywords: Sequence[Any]) -> None:
    """Raise InvalidCoordinatorUsageError unless positions count from 0 or 1, and keywords are names, each once."""
    for kind, given in ((Argument, arguments), (KwArgument, keywords)):
        for each in given:
            if not isinstance(each, kind):
                raise InvalidCoordinatorUsageError(
                    f"{each!r} is no {kind.__name__}; pass plain values as args=, kwargs="
                )
    positions = sorted(map(_POSITION, arguments))
    if positions and (positions[0] > 1 or positions != [*range(positions[0], positions[0] + len(positions))]):
        raise InvalidCoordinatorUsageError(
            f"the positions of {len(positions)} arguments are {', '.join(map(str, positions))}; number them from 1, or "
            "from 0, without a gap"
        )
    names = [keyword.keyword for keyword in keywords]
    for name in names:
        if not name.isidentifier() or names.count(name) > 1:
            raise InvalidCoordinatorUsageError(f"the keyword {name!r} is no name, or is there twice")


def _named_variant(name: str, value: Any) -> Any:
    try:
        return to_variant(value)
    except EncodingError as error:
        raise EncodingError(f"{name}: {error}") from error


def _unknown(data_type: int) -> str:
    return f"{data_type!r} is no VariantType; there are {', '.join(VariantType.__members__)}"


def _unreadable(what: str) -> DecodeError:
    return DecodeError(what, reason="payload")


# --- writing ---


def _encode_none(value: Any) -> bytes:
    if value is not None:
        raise TypeError("it is not None")
    return b""


def _encode_double(value: Any) -> bytes:
    return struct.pack("<d", value)


def _encode_int(value: Any) -> bytes:
    number = operator.index(value)
    try:
        return number.to_bytes(NUMBER_BYTES, "little", signed=True)
    except OverflowError as error:
        raise EncodingError(
            f"an integer of {number.bit_length()} bits does not fit into 64; send it as JSON"
        ) from error


def _encode_string(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("it is no text")
    return value.encode()


def _encode_json(value: Any) -> bytes:
    return _JSON_ENCODER.encode(value).encode()


def _without_numpy(value: Any) -> Any:
    """Return numpy's arrays and numbers as Python's; called by json for what it does not know."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


# json.dumps would make one for each value. allow_nan would write NaN and Infinity, which are no JSON; the encoding to
# UTF-8 refuses lone surrogates.
_JSON_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_without_numpy)


def _encode_parquet(value: Any) -> bytes:
    return bytes(_tables().to_parquet(value))


def _encode_arrow(value: Any) -> bytes:
    return bytes(_tables().to_arrow(value))


def _tables() -> Any:
    """Return the codec of tables. Raises ValueError without its packages."""
    try:
        from runtime.models import tables
    except ImportError as error:
        raise ValueError(f"{error}; tables need `pip install 'krt-runtime[tables]'`") from error
    return tables


# --- reading ---


def _decode_none(data: bytes) -> None:
    if data:
        raise ValueError("there should be none")


def _decode_double(data: bytes) -> float:
    _check_length(data)
    return float(struct.unpack("<d", data)[0])


def _decode_int(data: bytes) -> int:
    _check_length(data)
    return int.from_bytes(data, "little", signed=True)


def _check_length(data: bytes) -> None:
    if len(data) != NUMBER_BYTES:
        raise ValueError(f"a number has {NUMBER_BYTES}")


def _decode_string(data: bytes) -> str:
    return data.decode()


def _decode_json(data: bytes) -> Any:
    text = data.decode()
    value = _JSON_DECODER.decode(text)
    if _SURROGATE_ESCAPE.search(text):
        # A text with half a character would fail later, wherever it is printed or stored.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON")


# json.loads would make one for each value.
_JSON_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode_parquet(data: bytes) -> Any:
    return _tables().from_parquet(data)


def _decode_arrow(data: bytes) -> Any:
    return _tables().from_arrow(data)


_ENCODERS: dict[int, Callable[[Any], bytes]] = {
    VariantType.NONE: _encode_none,
    VariantType.DOUBLE: _encode_double,
    VariantType.INT: _encode_int,
    VariantType.STRING: _encode_string,
    VariantType.PARQUET: _encode_parquet,
    VariantType.ARROW: _encode_arrow,
    VariantType.JSON: _encode_json,
}
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    VariantType.NONE: _decode_none,
    VariantType.DOUBLE: _decode_double,
    VariantType.INT: _decode_int,
    VariantType.STRING: _decode_string,
    VariantType.PARQUET: _decode_parquet,
    VariantType.ARROW: _decode_arrow,
    VariantType.JSON: _decode_json,
}

# bool before int, which it is as well.
_PYTHON_TYPES: tuple[tuple[Any, VariantType], ...] = (
    (type(None), VariantType.NONE),
    (bool, VariantType.JSON),
    (int, VariantType.INT),
    (float, VariantType.DOUBLE),
    (str, VariantType.STRING),
    ((dict, list, tuple), VariantType.JSON),
)
# Module, class in it, type.
_LIBRARY_TYPES = (
    ("numpy", "bool_", VariantType.JSON),
    ("numpy", "integer", VariantType.INT),
    ("numpy", "floating", VariantType.DOUBLE),
    ("numpy", "ndarray", VariantType.JSON),
    ("pandas", "DataFrame", VariantType.PARQUET),
    ("pyarrow", "Table", VariantType.ARROW),
)
