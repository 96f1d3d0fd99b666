"""A message on its way from one node of a fused chain to the next, inside of their process."""

from typing import Any

from runtime import wire
from runtime.bus.base import Delivery
from runtime.message import Message
from runtime.spec import names


class Handed(Delivery):
    """A message on its way from one node to the next. Its bytes are made only for whoever stores or forwards them."""

    __slots__ = ("message", "origin", "path", "size_bytes")

    def __init__(
        self,
        taken: Delivery,
        subject: str,
        *,
        origin: int,
        path: str,
        passed: str,
        message: Message | None = None,
        data: bytes = b"",
        attempt: int = 0,
    ) -> None:
        """Make the input of the next node from what the node before has `taken`: either a `message`, or its `data`.

        origin, path: see `spec/hops.py`. passed: value of the header that tells its way. attempt: 0 for the same one.
        """
        self.subject = subject
        self.message = message
        if message is None:
            self.data = data
        self.headers = {names.HOPS_HEADER: passed}
        self.sequence = taken.sequence
        self.attempt = attempt or taken.attempt
        self.time_ns = taken.time_ns
        self.pending = 0
        self.reply = ""
        self.kept_alive_s = 0.0
        self.settled = False
        self.origin = origin
        self.path = path
        self.size_bytes = len(data) if message is None else len(message.payload)

    def __getattr__(self, name: str) -> Any:
        if name != "data" or self.message is None:
            raise AttributeError(name)
        self.data = wire.encode(self.message)
        return self.data

    def again(self) -> "Handed":
        """Return the same message for one more attempt."""
        assert self.headers is not None, "given to every one"
        return Handed(
            self,
            self.subject,
            origin=self.origin,
            path=self.path,
            passed=self.headers[names.HOPS_HEADER],
            message=self.message,
            data=self.data if self.message is None else b"",
            attempt=self.attempt + 1,
        )
