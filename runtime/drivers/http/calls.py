"""What a client of `FastAPIDriver` asks for and is answered, without I/O: written once for plain code and coroutines.

A call is a generator: it yields a request, or a pause, and is sent the answer.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, unquote

import httpx
import orjson

from runtime.drivers.http import media
from runtime.errors import PredictionError
from runtime.payload import native_of
from runtime.payload_files import File

T = TypeVar("T")

JSON, BYTES, EVENT_STREAM = media.JSON, "application/octet-stream", "text/event-stream"
PROTOBUF = "application/protobuf"
# Seconds for a connection, and beyond a request's own time for its answer to arrive.
CONNECT_S = 5.0
ANSWER_MARGIN_S = 5.0
DEFAULT_TIMEOUT_S = 30.0
# Seconds that a request may take which leaves its time to the driver.
DRIVERS_OWN_S = 600.0
# Seconds that one request for a task's result waits, at most, and between two looks whether a driver is there.
LONGEST_WAIT_S = 30.0
LOOK_S = 0.05
# Characters of an answer that is none of a driver's, in an error.
QUOTED_CHARACTERS = 200


class FastAPIClientError(PredictionError):
    """A call that brought no outputs. status: of HTTP, 0 when no answer came. faults: wrong fields, with what is wrong.

    outcome: `invalid`, `too-large`, `busy`, `timeout`, `failed`, `unavailable`, `unknown`, `cancelled` or `auth`.
    retry_after_s: when to try again, 0 when the driver does not say.
    """

    def __init__(
        self,
        status: int,
        outcome: str,
        detail: str,
        *,
        faults: Mapping[str, str] | None = None,
        retry_after_s: float = 0.0,
        request_id: str = "",
        node: str = "",
    ) -> None:
        super().__init__(detail, outcome=outcome, request_id=request_id, node=node)
        self.status = status
        self.faults = faults or {}
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} {self.outcome}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """timeout_s: until its answer is there."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S + ANSWER_MARGIN_S


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


# A call, written once for both kinds of code: it yields what is to be done, and is sent the answer to a request.
Call: TypeAlias = Generator[Request | Pause, Any, T]


# --- the calls ---


def wait(timeout_s: float) -> Call[None]:
    ends_s = time.monotonic() + timeout_s
    while True:
        try:
            yield Request(method="GET", path="/health", timeout_s=CONNECT_S)
            return
        except FastAPIClientError as error:
            if time.monotonic() >= ends_s:
                detail = f"the driver does not answer within {timeout_s:g} s: {error.detail}"
                raise FastAPIClientError(error.status, error.outcome, detail) from error
        yield Pause(LOOK_S)


def predict(inputs: Any, state_id: str | None, timeout_s: float | None) -> Call[Any]:
    return value_of((yield sending("/predict", inputs, state_id, timeout_s)))


def predict_task(inputs: Any, state_id: str | None, timeout_s: float | None) -> Call[str]:
    return str(value_of((yield sending("/tasks", inputs, state_id, timeout_s)))["task_id"])


def task_result(task_id: str, timeout_s: float) -> Call[Any]:
    ends_s = time.monotonic() + timeout_s
    while True:
        wait_s = min(max(ends_s - time.monotonic(), 0.0), LONGEST_WAIT_S)
        path = f"/tasks/{quote(task_id, safe='')}?wait={wait_s:.3f}"
        response = yield Request(method="GET", path=path, timeout_s=wait_s + ANSWER_MARGIN_S)
        if response.status_code != httpx.codes.ACCEPTED:
            return value_of(response)
        if time.monotonic() >= ends_s:
            raise FastAPIClientError(
                response.status_code, "timeout", f"task {task_id} has not ended in {timeout_s:g} s"
            )
        yield Pause(LOOK_S)


def cancel_task(task_id: str) -> Call[None]:
    yield Request(method="DELETE", path=f"/tasks/{quote(task_id, safe='')}")


def schema() -> Call[dict[str, Any]]:
    return dict(value_of((yield Request(method="GET", path="/schema"))))


def next_step(call: Call[T], done: httpx.Response | FastAPIClientError | None) -> Request | Pause:
    return call.throw(done) if isinstance(done, FastAPIClientError) else call.send(done)


# --- requests ---


def sending(path: str, inputs: Any, state_id: str | None, timeout_s: float | None, accept: str = "*/*") -> Request:
    headers: dict[str, str | bytes] = {"Accept": accept, "Content-Type": JSON}
    limit_s = DRIVERS_OWN_S if timeout_s is None else timeout_s + ANSWER_MARGIN_S
    if (content := _content(inputs)) is not None:
        body, headers["Content-Type"] = content
        if isinstance(inputs, File) and inputs.name:
            headers[media.FILE_NAME_HEADER] = inputs.name.encode()
        if state_id is not None:
            headers["Krt-State-Id"] = state_id
        if timeout_s is not None:
            headers["Krt-Timeout"] = f"{timeout_s:g}"
        return Request(method="POST", path=path, content=body, headers=headers, timeout_s=limit_s)
    said = {"inputs": inputs, "state_id": state_id, "timeout": timeout_s}
    try:
        body = orjson.dumps({key: value for key, value in said.items() if value is not None or key == "inputs"})
    except TypeError as error:
        raise FastAPIClientError(0, "invalid", f"the inputs cannot be sent as JSON: {error}") from error
    return Request(method="POST", path=path, content=body, headers=headers, timeout_s=limit_s)


def _content(inputs: Any) -> tuple[bytes, str] | None:
    """Return a body with its type for what is not sent as JSON, else None."""
    if isinstance(inputs, (bytes, bytearray)):
        return bytes(inputs), BYTES
    if native_of(inputs) is None:
        return None
    return media.written(inputs, accept=", ".join(media.MEDIA_TYPES.values()))


# --- answers ---


def checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise error_of(response)
    return response


def value_of(response: httpx.Response) -> Any:
    """Return the output in an answer: JSON, bytes, or the file, array or table that it is."""
    content_type = response.headers.get("content-type", "")
    if content_type.startswith(JSON):
        return orjson.loads(response.content)
    if content_type in ("", BYTES, PROTOBUF):
        return response.content
    for native, media_type in media.MEDIA_TYPES.items():
        if content_type == media_type:
            return media.read(native, response.content)
    _, _, name = response.headers.get("content-disposition", "").partition("filename*=UTF-8''")
    return File(response.content, content_type, unquote(name))


def error_of(response: httpx.Response) -> FastAPIClientError:
    status = response.status_code
    try:
        said = orjson.loads(response.content)
        outcome, detail = str(said["outcome"]), str(said["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):  # not from a driver, but from something in between
        said = {}
        outcome = "unavailable" if status in (502, 503, 504) else "failed"
        detail = response.text[:QUOTED_CHARACTERS] or response.reason_phrase
    return FastAPIClientError(
        status,
        outcome,
        detail,
        faults={fault["field"]: fault["problem"] for fault in said.get("faults", ())},
        retry_after_s=float(response.headers.get("retry-after", 0)),
        request_id=said.get("request_id", ""),
        node=said.get("node", ""),
    )


class Events:
    """Reads server-sent events line by line, as `http/events.py` writes them."""

    def __init__(self) -> None:
        self._kind = ""
        self._ended = False

    def outputs(self, line: str) -> Iterator[Any]:
        """Yield the output that a line brings, if it does. Raises FastAPIClientError for an error that was sent."""
        name, _, text = line.partition(": ")
        if name == "event":
            self._kind = text
            self._ended = text == "end"
        elif name == "data" and self._kind == "output":
            yield orjson.loads(text)
        elif name == "data" and self._kind == "error":
            said = orjson.loads(text)
            raise FastAPIClientError(
                httpx.codes.OK, said["outcome"], said["detail"],
                request_id=said.get("request_id", ""), node=said.get("node", ""),
            )  # fmt: skip

    def check_end(self) -> None:
        """Raise FastAPIClientError when the connection has ended before the outputs did."""
        if not self._ended:
            raise FastAPIClientError(0, "unavailable", "the connection was lost before the last output")
