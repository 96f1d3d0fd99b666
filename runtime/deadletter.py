"""Dead letters: a message given up, as a stream keeps it. The node writes them, the command line reads them.

The body is the input exactly as it arrived, so that redriving is publishing it again; everything else is one header
of JSON. When both together exceed what the server takes, the traceback goes first, then the history, then
the input's headers and most of the error's text.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

# The header that holds everything but the input.
HEADER = "Krt-Dead-Letter"
# Bytes of a traceback that are worth keeping; the end is what names the fault.
MAX_TRACEBACK_BYTES = 16 * 1024
MAX_ERROR_BYTES = 2 * 1024
# Bytes of the error that stay in any case; a header of this and the ids fits into `wire.HEADER_ROOM_BYTES`.
MIN_ERROR_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One failed attempt: delivery number, unix time in seconds, error as `Class: text`."""

    attempt: int
    time_s: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why a message was given up.

    reason: a stable word (`failed`, `timeout`, `rejected`, `never`, `encode`, `too-large`, `no-handler`, or the reason
    of a DecodeError). sequence: of the input in `stream`. headers: those of the input, its message id included.
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
            fields["attempts"] = tuple(Attempt(**attempt) for attempt in fields["attempts"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no dead letter: {error}") from error
