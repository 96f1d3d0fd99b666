"""The states of a batch run, what leads from one to the next, and why a run ended. Pure; lists of runs need no more.

    pending ─▶ starting ─▶ running ─▶ storing ─▶ complete | unsupported | failed | cancelled | timed-out

`TRANSITIONS` is every step that there is.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from runtime.errors import RunStateError


class RunState(StrEnum):
    """Where a run is."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STORING = "storing"
    COMPLETE = "complete"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"

    @property
    def is_final(self) -> bool:
        return self in FINAL

    @property
    def word(self) -> str:
        """What callbacks and results call it: four words, for the reason tells the endings apart."""
        return _WORDS[self]


FINAL = frozenset(
    (RunState.COMPLETE, RunState.UNSUPPORTED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT),
)
_WORDS = {
    RunState.PENDING: "pending",
    RunState.STARTING: "in-progress",
    RunState.RUNNING: "in-progress",
    RunState.STORING: "in-progress",
    RunState.COMPLETE: "complete",
    RunState.UNSUPPORTED: "unsupported",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "failed",
    RunState.TIMED_OUT: "failed",
}


class RunEvent(StrEnum):
    """What happens to a run."""

    TAKE = "take"  # a worker has a slot for it
    WAIT = "wait"  # what it needs is unavailable, or its worker stops: it waits for the next attempt
    START = "start"  # the process is about to be started
    END = "end"  # the process has ended
    COMPLETE = "complete"
    REFUSE = "refuse"  # the model does not support this input
    FAIL = "fail"
    CANCEL = "cancel"
    TIME_OUT = "time-out"
    LOSE = "lose"  # its worker is gone, and with it what it has computed
    REOPEN = "reopen"  # a person redrives the message of a run that failed for something unavailable
    STORE_AGAIN = "store-again"  # a person asks for `krt runs retry-store`


_S, _E = RunState, RunEvent
# Every step of a run; what is not here does not happen.
TRANSITIONS: Mapping[tuple[RunState, RunEvent], RunState] = MappingProxyType(
    {
        (_S.PENDING, _E.TAKE): _S.STARTING,
        (_S.PENDING, _E.FAIL): _S.FAILED,
        (_S.PENDING, _E.CANCEL): _S.CANCELLED,
        (_S.STARTING, _E.WAIT): _S.PENDING,
        (_S.STARTING, _E.LOSE): _S.PENDING,
        (_S.STARTING, _E.START): _S.RUNNING,
        (_S.STARTING, _E.FAIL): _S.FAILED,
        (_S.STARTING, _E.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _E.WAIT): _S.PENDING,
        (_S.RUNNING, _E.LOSE): _S.PENDING,
        (_S.RUNNING, _E.END): _S.STORING,
        (_S.RUNNING, _E.FAIL): _S.FAILED,
        (_S.RUNNING, _E.CANCEL): _S.CANCELLED,
        (_S.STORING, _E.LOSE): _S.PENDING,
        (_S.STORING, _E.COMPLETE): _S.COMPLETE,
        (_S.STORING, _E.REFUSE): _S.UNSUPPORTED,
        (_S.STORING, _E.FAIL): _S.FAILED,
        (_S.STORING, _E.CANCEL): _S.CANCELLED,
        (_S.STORING, _E.TIME_OUT): _S.TIMED_OUT,
        (_S.FAILED, _E.REOPEN): _S.PENDING,
        (_S.FAILED, _E.STORE_AGAIN): _S.STORING,
    }
)


def next_state(state: RunState, event: RunEvent) -> RunState:
    """Return the state that follows. Raises RunStateError for a step that there is not."""
    follows = TRANSITIONS.get((state, event))
    if follows is None:
        raise RunStateError(f"a run that is {state} cannot {event}")
    return follows


class Reason(StrEnum):
    """Why a run did not complete: a stable word of its record, its callbacks and its result."""

    INVALID_INPUT = "INVALID_INPUT"
    IMAGE_NOT_ALLOWED = "IMAGE_NOT_ALLOWED"
    CALLBACK_REFUSED = "CALLBACK_REFUSED"
    PULL_FAILED = "PULL_FAILED"
    START_FAILED = "START_FAILED"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    UNSUPPORTED_INPUT = "UNSUPPORTED_INPUT"
    EXIT_CODE = "EXIT_CODE"
    SIGNAL = "SIGNAL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    NO_SPACE = "NO_SPACE"
    UNSAFE_OUTPUT = "UNSAFE_OUTPUT"
    STORE_FAILED = "STORE_FAILED"


# Endings that a redriven message may undo: what was missing then may be there now.
REOPENED = frozenset((Reason.BACKEND_UNAVAILABLE,))
# Endings that are the sender's fault: their message is a dead letter, and not a result.
INVALID = frozenset((Reason.INVALID_INPUT,))


def ending(reason: Reason | None) -> RunEvent:
    """Return what ends a run for a reason; None is the reason of a run that went well."""
    return _ENDINGS.get(reason, RunEvent.FAIL)


_ENDINGS = {
    None: RunEvent.COMPLETE,
    Reason.UNSUPPORTED_INPUT: RunEvent.REFUSE,
    Reason.CANCELLED: RunEvent.CANCEL,
    Reason.TIMEOUT: RunEvent.TIME_OUT,
}
