"""A message on its way from one node of a fused chain to the next, inside of their process."""

from runtime import wire
from runtime.bus.base import Delivery
from runtime.message import Message
from runtime.spec import names


class Handed(Delivery):
    """A message on its way from one node to the next. Its bytes are made only for whoever stores or forwards them."""

    __slots__ = ("_data", "size_bytes")
    # Of deliveries of a stream alone.
    pending = 0
    reply = ""
    kept_alive_s = 0.0

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
        self._data = data
        self.headers = {names.HOPS_HEADER: passed}
        self.sequence = taken.sequence
        self.attempt = attempt or taken.attempt
        self.time_ns = taken.time_ns
        self.settled = False
        self.origin = origin
        self.path = path
        self.size_bytes = len(data) if message is None else len(message.payload)

    @property
    def data(self) -> bytes:  # type: ignore[override]  # of a delivery it is an attribute, and read only, too
        if not self._data and self.message is not None:
            self._data = wire.encode(self.message)
        return self._data

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
            data=self._data,
            attempt=self.attempt + 1,
        )
