"""What becomes of a delivery: pure decisions from what happened to it. Values in, values out; no clock and no I/O."""

import random
from dataclasses import dataclass
from typing import Literal

from runtime.errors import (
    BusClosedError,
    BusError,
    BusUnavailableError,
    DecodeError,
    EncodeError,
    HandlerTimeoutError,
    JoinTimeoutError,
    MessageTooLargeError,
    Outcome,
    Reject,
    Retry,
    RevisionError,
    StreamFullError,
    Wait,
)
from runtime.message import ReplyOutcome
from runtime.spec.node import RetryPolicy

# Delays of a message that the bus would not take, by delivery; no handler failed, so the policy does not apply.
BUS_FIRST_S, BUS_MAX_S = 1.0, 60.0
# Characters of a described failure: it goes into ERROR messages and records, which have to stay small.
MAX_TEXT = 1_000
# Largest exponent of a backoff: beyond, every growing delay has long reached its cap.
MAX_EXPONENT = 64

Action = Literal["retry", "dead"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The end of a delivery that failed.

    retry: again after `delay_s`; `counts` says whether it was a failed attempt of the handler, `waits`
    whether the time until then is limited. dead: given up, with `reason` as a stable word.
    """

    action: Action
    delay_s: float = 0.0
    counts: bool = False
    waits: bool = False
    reason: str = ""

    @property
    def reply_outcome(self) -> ReplyOutcome:
        """What the caller is told of a message that was given up."""
        return _REPLY_OUTCOMES.get(self.reason, ReplyOutcome.INVALID)


_REPLY_OUTCOMES = {
    "failed": ReplyOutcome.FAILED,
    "timeout": ReplyOutcome.TIMEOUT,
    "join-timeout": ReplyOutcome.TIMEOUT,
    "never": ReplyOutcome.FAILED,
    "too-large": ReplyOutcome.TOO_LARGE,
    "refused": ReplyOutcome.UNAVAILABLE,
    "unavailable": ReplyOutcome.UNAVAILABLE,
}


def decide(
    failure: BaseException, policy: RetryPolicy, *, failures: int, delivery: int, waited_s: float = 0.0
) -> Decision:
    """Return what becomes of a delivery that ended with `failure`.

    failures: attempts of the handler that failed before this one. delivery: number of this delivery, from 1. waited_s:
    how long ago it began to wait for something, 0 where it does not.
    """
    if isinstance(failure, Reject):
        return Decision("dead", counts=True, reason="rejected")
    if isinstance(failure, Wait):
        return _wait(failure, delivery, waited_s)
    if isinstance(failure, DecodeError):
        return Decision("dead", reason=failure.reason)
    if isinstance(failure, EncodeError):
        return Decision("dead", counts=True, reason="encode")
    if isinstance(failure, MessageTooLargeError):
        return Decision("dead", counts=True, reason="too-large")
    # RevisionError: another replica has kept its state first, and this one's handling has left no trace.
    if isinstance(failure, (StreamFullError, BusUnavailableError, BusClosedError, RevisionError)):
        return Decision("retry", delay_s=min(BUS_MAX_S, BUS_FIRST_S * 2 ** min(delivery - 1, 16)))
    if isinstance(failure, BusError):
        return Decision("dead", reason="refused")
    if isinstance(failure, JoinTimeoutError):
        return Decision("dead", reason="join-timeout")
    if names_of(failure) & set(policy.never):
        return Decision("dead", counts=True, reason="never")
    if failures + 1 >= policy.attempts:
        return Decision("dead", counts=True, reason="timeout" if isinstance(failure, HandlerTimeoutError) else "failed")
    after_s = failure.after_s if isinstance(failure, Retry) else None
    return Decision("retry", delay_s=backoff_s(policy, failures + 1) if after_s is None else after_s, counts=True)


def _wait(wait: Wait, delivery: int, waited_s: float) -> Decision:
    """Return a pause that doubles, the last one up to the limit; beyond that the message is given up."""
    if wait.limit_s is None:
        return Decision("retry", delay_s=min(wait.max_s, wait.first_s * 2 ** min(delivery - 1, 16)))
    if waited_s >= wait.limit_s:
        return Decision("dead", reason="unavailable")
    return Decision("retry", delay_s=min(wait.max_s, wait.first_s + waited_s, wait.limit_s - waited_s), waits=True)


def backoff_s(policy: RetryPolicy, failures: int) -> float:
    """Return the delay after the given number of failed attempts: first × factor^(failures-1), capped, with jitter."""
    try:
        delay_s = min(policy.max_s, policy.first_s * policy.factor ** min(failures - 1, MAX_EXPONENT))
    except OverflowError:
        delay_s = policy.max_s
    return delay_s * random.uniform(1 - policy.jitter, 1 + policy.jitter)


def names_of(failure: BaseException) -> set[str]:
    """Return the class names under which `never` may know an exception: its own and those of its bases."""
    return {kind.__name__ for kind in type(failure).__mro__ if kind not in (object, BaseException, Exception)}


def describe(failure: BaseException) -> str:
    """Return a failure as one line of at most `MAX_TEXT` characters: an outcome's own words, else `Class: text`."""
    text = text_of(failure)
    text = text if isinstance(failure, Outcome) else f"{type(failure).__name__}: {text}".removesuffix(": ")
    # Cut before the words are parted: a text of megabytes would take its time.
    line = " ".join(text[: 2 * MAX_TEXT].split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"


def text_of(failure: BaseException) -> str:
    """Return the text of an exception; the user's own classes may fail even at that."""
    try:
        return str(failure)
    except Exception as error:
        return f"(its text cannot be read: {type(error).__name__})"
