"""What repeated failures and timeouts cost a model. Pure: counters and an event in, counters and a verdict out.

A turn is a call of everybody that the model is part of. After its n-th timeout in a row a model misses ceil(n/2) turns
and is let through at the next one. Nothing but a success clears a counter.
"""

from dataclasses import dataclass, replace
from enum import Enum

from runtime.models.wire import FailureCode

DEFAULT_MAX_FAILURES = 3
DEFAULT_MAX_TIMEOUTS = 3
# A model is asked for its health each time it has used up this share of the timeouts that it may have: one fifth.
PROBES_PER_LIMIT = 5


class Event(Enum):
    """What has happened to a model."""

    TURN = "a call is about to be made"
    SUCCESS = "it has answered"
    FAILURE = "it has answered with an error"
    BAD_IMPLEMENTATION = "it has no such class or method"
    SETUP_FAILED = "it cannot be made"
    UNREACHABLE = "it cannot, or may not, be asked"
    TIMEOUT = "it has not answered in time, or was busy"
    NOTHING = "an end that is not its own doing"


class Verdict(Enum):
    """What is to be done now."""

    CALL = "let it through"
    SKIP = "leave it out of this call"
    GO_ON = "nothing"
    PROBE = "ask for its health"
    REPORT = "report it, and call it no more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Failures and timeouts in a row that a model may have; 0 for any number."""

    failures: int = DEFAULT_MAX_FAILURES
    timeouts: int = DEFAULT_MAX_TIMEOUTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Failures and timeouts since the last success, and turns that are still to be missed."""

    failures: int = 0
    timeouts: int = 0
    turns_to_miss: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The counters from now on, what is to be done, and for a report why."""

    counters: Counters
    verdict: Verdict
    code: FailureCode | None = None


# Of a model that has answered, which is what most calls decide.
_CLEARED = Decision(Counters(), Verdict.GO_ON)


def decide(counters: Counters, event: Event, limits: Limits) -> Decision:
    """Return what `event` means for a model with these counters."""
    match event:
        case Event.TURN if counters.turns_to_miss:
            return Decision(replace(counters, turns_to_miss=counters.turns_to_miss - 1), Verdict.SKIP)
        case Event.TURN:
            return Decision(counters, Verdict.CALL)
        case Event.SUCCESS:
            return _CLEARED
        case Event.FAILURE:
            return _after_failure(replace(counters, failures=counters.failures + 1), limits)
        case Event.BAD_IMPLEMENTATION:
            return Decision(counters, Verdict.REPORT, FailureCode.BAD_IMPLEMENTATION)
        case Event.SETUP_FAILED:
            return Decision(counters, Verdict.REPORT, FailureCode.MULTIPLE_FAILED)
        case Event.UNREACHABLE:
            return Decision(counters, Verdict.REPORT, FailureCode.CONNECTION_FAILED)
        case Event.TIMEOUT:
            timeouts = counters.timeouts + 1
            return _after_timeout(replace(counters, timeouts=timeouts, turns_to_miss=-(-timeouts // 2)), limits)
        case Event.NOTHING:
            return Decision(counters, Verdict.GO_ON)


def _after_failure(counters: Counters, limits: Limits) -> Decision:
    if 0 < limits.failures < counters.failures:
        return Decision(counters, Verdict.REPORT, FailureCode.MULTIPLE_FAILED)
    return Decision(counters, Verdict.GO_ON)


def _after_timeout(counters: Counters, limits: Limits) -> Decision:
    if 0 < limits.timeouts < counters.timeouts:
        return Decision(counters, Verdict.REPORT, FailureCode.MULTIPLE_TIMEOUT)
    probe_each = max(1, limits.timeouts // PROBES_PER_LIMIT)
    return Decision(counters, Verdict.GO_ON if counters.timeouts % probe_each else Verdict.PROBE)
