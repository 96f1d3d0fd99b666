"""How the call of one model has ended, as the coordinator is told, and what that says of the model. No I/O.

| reason | status | outcome | for the model |
|---|---|---|---|
| OK | SUCCESS | ok | clears its penalties |
| MODEL_FAILED, DECODE | FAILED | failed | one failure |
| BAD_IMPLEMENTATION | FAILED | bad_implementation | reported at once |
| SETUP_FAILED | FAILED | failed | reported at once |
| AUTH | FAILED | auth | reported at once |
| ARGUMENTS, INVALID | FAILED | invalid | nothing, the coordinator's own doing |
| DEADLINE_EXCEEDED, BUSY | TIMEOUT | timeout, busy | one timeout |
| UNAVAILABLE | TIMEOUT | unavailable | one timeout, as long as it says that it is running |
| SKIPPED, CLOSED, CONNECTION_LOST, NOT_READY | TIMEOUT | unavailable | nothing |

Three more reasons are those of a setup: UNREACHABLE is reported, CONFLICT and INVALID are not the model's fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

from runtime.models.penalties import Event

if TYPE_CHECKING:
    from runtime.models.model_runner import ModelRunner


class Outcome(StrEnum):
    """Kind of an end; the words are those on the wire."""

    OK = "ok"
    INVALID = "invalid"
    FAILED = "failed"
    BAD_IMPLEMENTATION = "bad_implementation"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    AUTH = "auth"


class Reason(StrEnum):
    """Why a call has ended as it did; the first word of `ModelPredictResult.detail`."""

    OK = "OK"
    # The model has raised an exception, or returned what has no form on the wire.
    MODEL_FAILED = "MODEL_FAILED"
    # Its answer cannot be read here.
    DECODE = "DECODE"
    # There is no such class or method.
    BAD_IMPLEMENTATION = "BAD_IMPLEMENTATION"
    # Its constructor has raised an exception.
    SETUP_FAILED = "SETUP_FAILED"
    # Its host has no instance; it is set up again inside the call.
    NOT_SET_UP = "NOT_SET_UP"
    # We are not allowed to ask it.
    AUTH = "AUTH"
    # The function that makes its arguments has raised an exception.
    ARGUMENTS = "ARGUMENTS"
    # Another coordinator has set it up with another class.
    CONFLICT = "CONFLICT"
    # It could not be set up, for nobody answered.
    UNREACHABLE = "UNREACHABLE"
    # Its host has refused the request as wrong, or as too large.
    INVALID = "INVALID"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    BUSY = "BUSY"
    # Left out after timeouts.
    SKIPPED = "SKIPPED"
    # It left, was replaced or stopped during the call.
    CLOSED = "CLOSED"
    # It is not running, or in setup, or was found unusable.
    NOT_READY = "NOT_READY"
    # Nobody listens where it was.
    UNAVAILABLE = "UNAVAILABLE"
    CONNECTION_LOST = "CONNECTION_LOST"


@dataclass
class ModelPredictResult:
    """What one model has answered, or why it has not.

    result: None unless it has succeeded. exec_time_us: from the call to the answer, model_time_us: in the model alone,
    0 where that is not known. detail: "" for a success, else a `Reason` and a text.
    """

    class Status(Enum):
        SUCCESS = "SUCCESS"
        FAILED = "FAILED"
        TIMEOUT = "TIMEOUT"

    model_runner: ModelRunner
    result: Any
    status: Status
    exec_time_us: int
    detail: str = ""
    model_time_us: int = 0
    outcome: Outcome = Outcome.OK


Status = ModelPredictResult.Status

_MEANING: dict[Reason, tuple[Status, Outcome, Event]] = {
    Reason.OK: (Status.SUCCESS, Outcome.OK, Event.SUCCESS),
    Reason.MODEL_FAILED: (Status.FAILED, Outcome.FAILED, Event.FAILURE),
    Reason.DECODE: (Status.FAILED, Outcome.FAILED, Event.FAILURE),
    Reason.BAD_IMPLEMENTATION: (Status.FAILED, Outcome.BAD_IMPLEMENTATION, Event.BAD_IMPLEMENTATION),
    Reason.SETUP_FAILED: (Status.FAILED, Outcome.FAILED, Event.SETUP_FAILED),
    Reason.CONFLICT: (Status.FAILED, Outcome.FAILED, Event.NOTHING),
    Reason.UNREACHABLE: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.UNREACHABLE),
    Reason.NOT_SET_UP: (Status.FAILED, Outcome.FAILED, Event.FAILURE),
    Reason.AUTH: (Status.FAILED, Outcome.AUTH, Event.UNREACHABLE),
    Reason.ARGUMENTS: (Status.FAILED, Outcome.INVALID, Event.NOTHING),
    Reason.INVALID: (Status.FAILED, Outcome.INVALID, Event.NOTHING),
    Reason.DEADLINE_EXCEEDED: (Status.TIMEOUT, Outcome.TIMEOUT, Event.TIMEOUT),
    Reason.BUSY: (Status.TIMEOUT, Outcome.BUSY, Event.TIMEOUT),
    Reason.SKIPPED: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.NOTHING),
    Reason.CLOSED: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.NOTHING),
    Reason.NOT_READY: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.NOTHING),
    Reason.UNAVAILABLE: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.TIMEOUT),
    Reason.CONNECTION_LOST: (Status.TIMEOUT, Outcome.UNAVAILABLE, Event.NOTHING),
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How one call has ended. value: the answer. model_time_us: time in the model, 0 if not known."""

    reason: Reason
    text: str = ""
    value: Any = None
    model_time_us: int = 0

    def __str__(self) -> str:
        return self.detail

    @property
    def status(self) -> Status:
        return _MEANING[self.reason][0]

    @property
    def outcome(self) -> Outcome:
        return _MEANING[self.reason][1]

    @property
    def event(self) -> Event:
        """What it says of the model."""
        return _MEANING[self.reason][2]

    @property
    def detail(self) -> str:
        if self.reason is Reason.OK:
            return ""
        return f"{self.reason}: {self.text}" if self.text else str(self.reason)

    def result(self, model_runner: ModelRunner, exec_time_us: int) -> ModelPredictResult:
        """Return it as the coordinator gets it."""
        status, outcome, _ = _MEANING[self.reason]
        return ModelPredictResult(
            model_runner, self.value, status, exec_time_us, self.detail, self.model_time_us, outcome
        )
