"""What a client asks for: reads a request's body within its limits, and checks it before anything is published."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
from starlette.requests import ClientDisconnect, Request

from runtime.client import TRACE_HEADER
from runtime.drivers.durations import read_seconds
from runtime.drivers.http import media
from runtime.drivers.http.answers import BYTES, JSON, Refusal
from runtime.drivers.http.protocol import GONE
from runtime.payload import Native
from runtime.payload_files import File
from runtime.spec.schema_check import Fault, SchemaCheck

# The keys of a body that holds more than the inputs. Inputs that have a field of the first name go into such a body.
INPUTS, STATE_ID, TIMEOUT = "inputs", "state_id", "timeout"
WRAPPED = (INPUTS, STATE_ID, TIMEOUT)
STATE_ID_HEADER, TIMEOUT_HEADER = "krt-state-id", "krt-timeout"
MAX_STATE_ID_CHARACTERS = 256
# What `read_seconds` takes as a text, and that without those that are 0.
DURATION_PATTERN = r"[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)?"
TIMEOUT_PATTERN = rf"(?=[0-9.]*[1-9]){DURATION_PATTERN}"
# Seconds that a request or task may take, at most.
MAX_TIMEOUT_S = 86_400.0
# Seconds for which a client may wait for a result in one request.
MAX_WAIT_S = 60.0

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for requests now: bytes of a body, seconds until it is there and until an answer.

    expose_tracebacks: those of algorithms, to the caller.
    """

    max_body: int
    body_s: float
    timeout_s: float
    expose_tracebacks: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A checked request to the workflow. headers: what travels with it to the handlers."""

    inputs: Any
    state_id: str
    timeout_s: float
    headers: Mapping[str, str]


@contextlib.contextmanager
def cancelled_when_gone(request: Request, cancel: Callable[[], object]) -> Iterator[None]:
    """Cancel what is awaited inside the block when the client closes its connection. Raises ClientDisconnect then."""
    gone: asyncio.Future[None] = request.scope["extensions"][GONE]["future"]

    def on_gone(_: object) -> None:
        cancel()

    gone.add_done_callback(on_gone)
    try:
        yield
    except asyncio.CancelledError:
        if not gone.done():
            raise
        raise ClientDisconnect from None
    finally:
        gone.remove_done_callback(on_gone)


def headers_of(request: Request) -> Mapping[str, str]:
    """Return the headers by their names in lower case; looked up here, each costs a tenth of what it does there."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}


async def read_body(request: Request, announced: int, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body, of which the headers have announced so many bytes, 0 for not saying.

    Raises Refusal: larger than `max_bytes`, or not there after `timeout_s`; ClientDisconnect.
    """
    if announced > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        detail = f"the body was not complete after {timeout_s:g} s"
        raise Refusal("timeout", detail, status=408, headers={"Connection": "close"}) from None
    return b"".join(chunks)


def read_call(
    headers: Mapping[str, str], body: bytes, takes: Mapping[str, Any], schema: SchemaCheck, default_timeout_s: float
) -> Call:
    """Return what a request with this body asks for. takes: the workflow's inputs. Raises Refusal with every fault."""
    inputs, said = _content(headers, body, takes)
    faults = [Fault(key, f"is unknown beside {INPUTS}; known: {', '.join(WRAPPED)}") for key in said.keys() - WRAPPED]
    state_id = _said(STATE_ID, _state_id, said, _decoded(headers.get(STATE_ID_HEADER, "")), faults)
    timeout_s = _said(TIMEOUT, _timeout, said, headers.get(TIMEOUT_HEADER, default_timeout_s), faults)
    inside = f"{INPUTS}." if said else ""
    faults += [fault._replace(field=(inside + fault.field).rstrip(".")) for fault in schema.faults(inputs)]
    if faults:
        raise Refusal("invalid", "; ".join(map(str, faults)), faults=faults)
    trace = trace_of(headers)
    passed = {TRACE_HEADER: trace} if trace else {}
    return Call(inputs=inputs, state_id=state_id, timeout_s=timeout_s, headers=passed)


def timeout_of(headers: Mapping[str, str], default_s: float) -> float:
    """Return the time of a request that says it in a header alone. Raises Refusal."""
    faults: list[Fault] = []
    timeout_s: float = _said(TIMEOUT, _timeout, {}, headers.get(TIMEOUT_HEADER, default_s), faults)
    if faults:
        raise Refusal("invalid", "; ".join(map(str, faults)), faults=faults)
    return timeout_s


def wait_of(text: str) -> float:
    """Return for how long a client asks to wait, in seconds, cut to what it may. Raises Refusal."""
    try:
        return min(read_seconds(text), MAX_WAIT_S)
    except ValueError as error:
        fault = Fault("wait", str(error))
        raise Refusal("invalid", str(fault), faults=[fault]) from None


def trace_of(headers: Mapping[str, str]) -> str:
    """Return the W3C trace context of a request, "" for none."""
    trace = headers.get(TRACE_HEADER, "")
    return trace if _TRACEPARENT.fullmatch(trace) else ""


def expect_json(headers: Mapping[str, str], *others: str) -> None:
    """Refuse a body that is not said to be JSON. others: types that would do as well.

    Not even without a type: a page of any site may send such a request through the browser of one who may.
    """
    media_type = _media_type(headers)
    if media_type != JSON:
        _refuse_type(media_type, " or ".join((JSON, *others)))


def _refuse_type(media_type: str, wanted: str) -> NoReturn:
    raise Refusal("invalid", f"the body is {media_type or 'of no type'}; send Content-Type: {wanted}", status=415)


def _said(key: str, read: Callable[[Any], Any], said: Mapping[str, Any], in_header: Any, faults: list[Fault]) -> Any:
    """Return what the body says, or else the header; both have to be right."""
    value = None
    for given in (in_header, said[key]) if key in said else (in_header,):
        try:
            value = read(given)
        except ValueError as error:
            faults.append(Fault(key, str(error)))
    return value


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _content(headers: Mapping[str, str], body: bytes, takes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the inputs, and the whole body where it holds more than them."""
    native = media.native_of(takes)
    if native is not None:
        return _native_content(headers, body, takes, native)
    if _media_type(headers) == BYTES:
        return body, {}
    expect_json(headers)
    return _json_content(body)


def _json_content(body: bytes) -> tuple[Any, dict[str, Any]]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal("invalid", f"the body is no JSON: {error}") from None
    if isinstance(value, dict) and INPUTS in value:
        return value[INPUTS], value
    return value, {}


def _native_content(
    headers: Mapping[str, str], body: bytes, takes: Mapping[str, Any], native: Native
) -> tuple[Any, dict[str, Any]]:
    """Do what `_content` does, for a workflow that takes files, arrays or tables."""
    media_type = _media_type(headers)
    try:
        if native is Native.FILE:
            if media_type in media.FORM_TYPES:
                _refuse_type(media_type, f"that of the file, or {BYTES}")
            return File(body, headers["content-type"], _decoded(headers.get(media.FILE_NAME_HEADER, ""))), {}
        if media_type == media.MEDIA_TYPES[native]:
            return media.read(native, body), {}
        expect_json(headers, media.MEDIA_TYPES[native])
        value, said = _json_content(body)
        return media.from_json(native, value, takes.get("dtype", "")), said
    except ValueError as error:
        raise Refusal("invalid", f"the body is no {native}: {error}") from error
    except ImportError as error:
        raise Refusal("unsupported", f"this driver reads no {native}s: {error}") from error


def _state_id(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_STATE_ID_CHARACTERS:
        raise ValueError(f"is no text of at most {MAX_STATE_ID_CHARACTERS} characters")
    return value


def _timeout(value: Any) -> float:
    """Return a time in seconds, cut to what a request may take."""
    if isinstance(value, str) and not re.fullmatch(TIMEOUT_PATTERN, value):
        raise ValueError(f"{value!r} is no time; give more than 0 seconds, or a number with ms, s, m, h or d: 500ms")
    seconds = read_seconds(value)
    if seconds <= 0:
        raise ValueError(f"is {seconds:g} s; give more than 0")
    return min(seconds, MAX_TIMEOUT_S)


def _decoded(header: str) -> str:
    """Return a header's text as it was meant: HTTP leaves it open, and clients send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return header


def _too_large(max_bytes: int) -> Refusal:
    return Refusal("too-large", f"the body is larger than {max_bytes:,} bytes")
