"""Dead letters: a message given up, as a stream keeps it. The node writes them, the command line reads them.

The body is the input exactly as it arrived, so that redriving is publishing it again; everything else is one header
of JSON. When both together exceed what the server takes, the traceback goes first, then the history, then
the input's headers and most of the error's text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

# The header that holds everything but the input.
HEADER = "Krt-Dead-Letter"
# Bytes of a traceback that are worth keeping; the end is what names the fault.
MAX_TRACEBACK_BYTES = 16 * 1024
MAX_ERROR_BYTES = 2 * 1024
# Attempts that a letter describes, those before its redrives included: the latest ones.
MAX_ATTEMPTS = 60
# Bytes of the error that stay in any case; a header of this and the ids fits into `wire.HEADER_ROOM_BYTES`.
MIN_ERROR_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed attempt: delivery number, unix time in seconds, error as `Class: text`.

    redrive: how often the message had been redriven then; the delivery number counts anew after each.
    """

    attempt: int
    time_s: float
    error: str
    redrive: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why a message was given up.

    reason: a stable word (`failed`, `timeout`, `rejected`, `never`, `encode`, `too-large`, `no-handler`,
    `join-timeout`, `unavailable`, or the reason of a DecodeError). sequence: of the input in `stream`; subject: of its
    source, also when it was redriven. headers: those of the input, its message id included. origin: sequence of the
    input before its first redrive, 0 if it was never redriven. left_out: the body is empty because it was too large;
    the stream has the input while it keeps it. path: of an input that never was in the stream, because a fused node
    has handed it on in its process: `sequence` is that of what its chain took then, see `spec/hops.py`.
    """

    node: str
    reason: str
    error: str
    traceback: str
    request_id: str
    stream: str
    subject: str
    sequence: int
    stored_ns: int
    attempts: tuple[Attempt, ...]
    handler_version: str
    headers: Mapping[str, str]
    origin: int = 0
    redrive: int = 0
    left_out: bool = False
    path: str = ""

    def to_header(self, room_bytes: int) -> str:
        """Return the header's value in at most `room_bytes`, where leaving out what the module says allows it."""
        letter = replace(self, error=self.error[:MAX_ERROR_BYTES], traceback=self.traceback[-MAX_TRACEBACK_BYTES:])
        bare = replace(letter, traceback="", attempts=())
        smallest = replace(bare, headers={}, error=self.error[:MIN_ERROR_BYTES])
        for smaller in (letter, replace(letter, traceback=""), bare, smallest):
            text = json.dumps(asdict(smaller))
            if len(text) <= room_bytes:
                break
        return text

    @classmethod
    def from_header(cls, text: str) -> "DeadLetter":
        """Read what `to_header` made. Raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            fields["attempts"] = _attempts(fields["attempts"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no dead letter: {error}") from error


def attempts_to_header(attempts: Sequence[Attempt], room_bytes: int) -> str:
    """Return the latest attempts as the value of a header, as many as fit into `room_bytes`; "" if none does."""
    for start in range(max(0, len(attempts) - MAX_ATTEMPTS), len(attempts)):
        text = json.dumps([asdict(attempt) for attempt in attempts[start:]])
        if len(text) <= room_bytes:
            return text
    return ""


def attempts_from_header(text: str) -> tuple[Attempt, ...]:
    """Read what `attempts_to_header` made; anything else is no attempt: a message must not fail for its history."""
    try:
        return _attempts(json.loads(text))
    except (ValueError, TypeError):
        return ()


def _attempts(found: Sequence[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    return tuple(Attempt(**attempt) for attempt in found)
