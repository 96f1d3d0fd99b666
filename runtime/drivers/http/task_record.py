"""A task as it is kept in its bucket: what was asked for while it is pending, and how it ended afterwards. Pure.

On the wire: one line of JSON, then the payload (a serialised `Any`): the inputs, or later the output. Gzipped as a
whole where it would be larger than the server takes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Self

import orjson

from runtime import wire
from runtime.errors import DecodeError
from runtime.message import ReplyOutcome

# Outcome of a task that was cancelled before its end.
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task. Times are unix milliseconds; expires_ms is 0 and outcome "" while it is pending."""

    id: str
    created_ms: int
    deadline_ms: int
    state_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_ms: int = 0
    outcome: str = ""
    detail: str = ""
    node: str = ""
    payload: bytes = b""

    @property
    def is_pending(self) -> bool:
        return not self.outcome

    def is_expired(self, now_ms: int) -> bool:
        return bool(self.expires_ms) and self.expires_ms <= now_ms

    def ended(self, *, outcome: str, payload: bytes = b"", detail: str = "", node: str = "") -> Self:
        """Return the task with its end; when it expires is for `kept` to say."""
        return replace(self, outcome=str(outcome), payload=payload, detail=detail, node=node, headers={}, state_id="")

    def kept(self, until_ms: int) -> Self:
        return replace(self, expires_ms=until_ms)

    def timed_out(self) -> Self:
        return self.ended(outcome=ReplyOutcome.TIMEOUT, detail="no answer within the task's time")

    def encode(self, limit_bytes: int) -> bytes:
        """Raises MessageTooLargeError."""
        said = {**asdict(self), "headers": dict(self.headers)}
        payload: bytes = said.pop("payload")
        return wire.fit(orjson.dumps(said) + b"\n" + payload, limit_bytes)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises DecodeError."""
        if data.startswith(wire.GZIP_MAGIC):
            data = wire.inflate(data, wire.MAX_INFLATED_BYTES)
        head, _, payload = data.partition(b"\n")
        known = {each.name for each in fields(cls)}
        try:
            said = orjson.loads(head)
            return cls(**{key: value for key, value in said.items() if key in known}, payload=payload)
        except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
            raise DecodeError(f"a task's record cannot be read: {error}", reason="payload") from error
