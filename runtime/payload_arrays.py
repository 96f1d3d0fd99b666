"""numpy arrays as payloads: read where they lie, without a copy, so that what a handler gets cannot be written to.

Imported when an array is read or written, and never before: numpy is the user's. On the wire: `proto/natives.py`.
"""

import functools
import io
import math
import re
import typing
from collections.abc import Callable
from typing import Any

import numpy
from numpy.lib import format as npy

from runtime.errors import DecodeError, EncodeError
from runtime.message import Payload
from runtime.proto import natives

# What travels, as numpy writes it: numbers, booleans, texts and bytes of fixed length, times. Left out is what is no
# plain memory (objects), has fields (structured), or another form on another machine (long double).
_DTYPE = re.compile(
    r"\|b1|[|<>][iu][1248]|[<>]f[248]|[<>]c(8|16)|\|S[1-9]\d*|[<>]U[1-9]\d*"
    r"|[<>][mM]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
# The last code point of Unicode: Python has no text for what is beyond.
_LAST_CHARACTER = 0x10FFFF
# Kinds of dtype with a form in JSON: booleans, numbers, texts, times.
_JSON_KINDS = frozenset("biufUmM")
# Readers of the header of numpy's files, by the version of the format.
_NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def encode(array: "numpy.ndarray[Any, Any]") -> Payload:
    """Return the payload of an array, in C order; it refers to the array's memory where that is in this order.

    Raises EncodeError naming the dtype and the way out.
    """
    if isinstance(array, numpy.ma.MaskedArray):
        raise EncodeError("a masked array has no form as a payload; return array.filled(value)")
    if not _travels(array.dtype):
        raise EncodeError(f"an array of dtype {array.dtype} has no form as a payload; {_way_out(array.dtype)}")
    flat = numpy.asarray(array, order="C").reshape(-1)
    return natives.write_array(array.dtype.str, array.shape, flat.view(numpy.uint8).data)


def decoder(annotation: Any) -> Callable[[bytes], "numpy.ndarray[Any, Any] | None"]:
    """Return what reads a payload as `np.ndarray`, or as `npt.NDArray[np.float32]`, which checks the dtype, too."""
    wanted = scalar_types(annotation)
    names = " or ".join(sorted(each.__name__ for each in wanted))

    def decode_checked(payload: bytes) -> "numpy.ndarray[Any, Any] | None":
        array = decode(payload)
        if array is not None and not any(numpy.issubdtype(array.dtype, each) for each in wanted):
            raise DecodeError(
                f"the handler takes an array of {names}, the payload is an array of {array.dtype}",
                reason="payload-type",
            )
        return array

    return decode_checked if wanted else decode


def decode(payload: bytes) -> "numpy.ndarray[Any, Any] | None":
    """Return the array in a payload, which shares its memory; None for one of another type. Raises DecodeError."""
    fields = natives.read_array(payload)
    return None if fields is None else _array(payload, fields)


def scalar_types(annotation: Any) -> tuple[type, ...]:
    """Return the dtypes that an annotation allows, as numpy's classes; () for any."""
    arguments = typing.get_args(annotation)
    dtypes = typing.get_args(arguments[1]) if len(arguments) > 1 else ()
    kinds = [kind for each in dtypes for kind in typing.get_args(each) or (each,)]
    known = tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, numpy.generic))
    return known if len(known) == len(kinds) else ()


def dtype_name(annotation: Any) -> str:
    """Return the name of the one dtype that an annotation allows, `float32`; "" for several."""
    kinds = scalar_types(annotation)
    if len(kinds) != 1 or kinds[0].__subclasses__():  # numpy.floating stands for all of its kind
        return ""
    return str(numpy.dtype(kinds[0]).name)


def json_form(array: "numpy.ndarray[Any, Any]") -> Any:
    """Return an array as lists, times as texts. Raises TypeError for one without a form in JSON: complex, bytes."""
    if array.dtype.kind not in _JSON_KINDS:
        raise TypeError(f"an array of {array.dtype} has no form in JSON")
    return (array.astype(str) if array.dtype.kind in "mM" else array).tolist()


def from_json(value: Any, dtype: str) -> "numpy.ndarray[Any, Any]":
    """Return lists as an array of this dtype (`float32`), "" for what numpy makes of them. Raises ValueError."""
    try:
        array = numpy.asarray(value, dtype or None)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if array.dtype.kind == "O":  # of null, or of mappings
        raise ValueError("it is no list of numbers or texts")
    return array


def to_media(array: "numpy.ndarray[Any, Any]") -> bytes:
    """Return an array in numpy's file format."""
    file = io.BytesIO()
    numpy.save(file, array, allow_pickle=False)
    return file.getvalue()


def from_media(data: bytes) -> "numpy.ndarray[Any, Any]":
    """Return the array of a file of numpy, which shares its memory. Raises ValueError, DecodeError."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version not in _NPY_HEADERS:  # the third is of structured arrays
        raise ValueError(f"version {version} of numpy's file format is not read")
    shape, is_turned, dtype = _NPY_HEADERS[version](file)
    fields = natives.ArrayFields(dtype.str, shape[::-1] if is_turned else shape, file.tell(), len(data))
    array = _array(data, fields)
    return array.T if is_turned else array


def _array(data: bytes, fields: natives.ArrayFields) -> "numpy.ndarray[Any, Any]":
    """Return the array whose memory lies in `data`. Raises DecodeError, before anything is allocated."""
    try:
        dtype = _dtype(fields.dtype)
        size_bytes = fields.end - fields.begin
        if math.prod(fields.shape) * dtype.itemsize != size_bytes:
            raise ValueError(f"it has {size_bytes:,} bytes")
        array: numpy.ndarray[Any, Any] = numpy.ndarray(fields.shape, dtype, buffer=data, offset=fields.begin)
    except (TypeError, ValueError, OverflowError) as error:
        what = f"array of dtype {fields.dtype[:50]!r} and shape {fields.shape}"
        raise DecodeError(f"the payload is no {what}: {error}", reason="payload") from error
    _check_text(array)
    return array


@functools.lru_cache(maxsize=64)
def _travels(dtype: "numpy.dtype[Any]") -> bool:
    return not dtype.names and _DTYPE.fullmatch(dtype.str) is not None


@functools.lru_cache(maxsize=64)
def _dtype(text: str) -> "numpy.dtype[Any]":
    """Return a dtype as it travels. Raises ValueError, TypeError."""
    if not _DTYPE.fullmatch(text):
        raise ValueError("this dtype does not travel")
    return numpy.dtype(text)


def _check_text(array: "numpy.ndarray[Any, Any]") -> None:
    """Refuse what numpy would break on later, wherever the array is looked at."""
    if array.dtype.kind == "U" and array.size:
        codes = array.reshape(-1).view(numpy.dtype(numpy.uint32).newbyteorder(array.dtype.byteorder))
        if codes.max() > _LAST_CHARACTER:
            raise DecodeError("the payload is an array of texts with characters beyond Unicode", reason="payload")


def _way_out(dtype: "numpy.dtype[Any]") -> str:
    if dtype.names:
        return "return a table, or an array for each field"
    if dtype.kind == "O":
        return "convert it to numbers or texts (array.astype), or return array.tolist()"
    return "convert it with array.astype"
