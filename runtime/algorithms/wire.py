"""What runners of algorithms and their callers agree on: outcomes, headers, and the bytes of an answer.

A request's body is the JSON object of the arguments. Its answer is `{"result": …}`, or a service error of NATS
micro-services with the body of a `Failure`. Bodies that are too large for a message: see `bus/bodies.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import orjson

from runtime.bus.base import Headers
from runtime.bus.microservice import error_headers
from runtime.errors import AlgorithmError

# Unix time in ms until which the caller waits.
DEADLINE_HEADER = "Krt-Deadline"
REQUEST_ID_HEADER = "Krt-Request-Id"
# W3C trace context.
TRACE_HEADER = "traceparent"
# `1` asks the runner to say, in a message before the answer, which instance will give it.
ACCEPT_HEADER = "Krt-Accept"
# `202` in that message, whose body is {"instance": …}; answers have no such header.
STATUS_HEADER = "Krt-Status"
ACCEPTED = "202"
# Who has answered, and the version of its adapter.
RUNNER_HEADER = "Krt-Runner"
VERSION_HEADER = "Krt-Version"

# Actions of an algorithm's subject.
RUN, SCHEMA = "run", "schema"

# Characters of a traceback in an answer, from its end.
TRACEBACK_CHARACTERS = 16_000


class Outcome(StrEnum):
    """How a call has ended."""

    OK = "ok"
    # The payload is refused, or the algorithm has raised a RequestError.
    INVALID = "invalid"
    # No runner ever offered it, as far as is known.
    UNKNOWN = "unknown"
    # The algorithm has raised, or its process has died.
    FAILED = "failed"
    # Its result is no JSON.
    BAD_IMPLEMENTATION = "bad_implementation"
    BUSY = "busy"
    # Nobody serves it now, or its runner has gone with the call.
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    AUTH = "auth"


SERVICE_CODES: Mapping[Outcome, int] = {
    Outcome.INVALID: 400,
    Outcome.AUTH: 401,
    Outcome.UNKNOWN: 404,
    Outcome.CANCELLED: 409,
    Outcome.BUSY: 429,
    Outcome.FAILED: 500,
    Outcome.BAD_IMPLEMENTATION: 501,
    Outcome.UNAVAILABLE: 503,
    Outcome.TIMEOUT: 504,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the arguments. path: `argument.key.0`, "" for the whole body."""

    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no result. errors: of the arguments, all of them. traceback: of the algorithm, "" for none."""

    outcome: Outcome
    detail: str
    errors: Sequence[Fault] = ()
    traceback: str = ""

    def encode(self) -> bytes:
        told: dict[str, object] = {"outcome": self.outcome, "detail": self.detail}
        if self.errors:
            told["errors"] = self.errors
        if self.traceback:
            told["traceback"] = self.traceback
        return orjson.dumps(told)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the body of a service error; one that others have made becomes FAILED."""
        try:
            told = orjson.loads(data)
            errors = [Fault(str(each["path"]), str(each["message"])) for each in told.get("errors", ())]
            return cls(
                outcome=Outcome(told["outcome"]),
                detail=str(told["detail"]),
                errors=errors,
                traceback=str(told.get("traceback", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(outcome=Outcome.FAILED, detail=data.decode(errors="replace") or "the answer is empty")

    def headers(self) -> Headers:
        """Return the headers of a service error."""
        return error_headers(SERVICE_CODES[self.outcome], self.detail)

    def error(self) -> AlgorithmError:
        """Return what the caller raises."""
        errors = [{"path": fault.path, "message": fault.message} for fault in self.errors]
        return AlgorithmError(self.detail, outcome=self.outcome, errors=errors, traceback=self.traceback)


# The body of `{"result": …}`, or why there is none.
Answer = bytes | Failure


def result_body(result: bytes) -> bytes:
    """Return the body of an answer around the JSON of a result."""
    return b'{"result":' + result + b"}"
