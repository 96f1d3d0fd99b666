"""A message on its way from one node of a fused chain to the next, inside of their process."""

from runtime import wire
from runtime.bus.base import Confirm, Delivery, Headers
from runtime.message import Message
from runtime.node.work import Work
from runtime.spec import hops, names


class Handed(Delivery):
    """A message on its way from one node to the next. Its bytes are made only for whoever stores or forwards them."""

    __slots__ = ("_data", "confirm", "passed", "size_bytes")
    # Of deliveries of a stream alone.
    pending = 0
    reply = ""
    kept_alive_s = 0.0

    def __init__(
        self,
        taken: Delivery,
        subject: str,
        origin: int,
        path: str,
        passed: str,
        confirm: Confirm,
        message: Message | None,
        data: bytes = b"",
    ) -> None:
        """Make the input of the next node from what the node before has `taken`: either a `message`, or its `data`.

        origin, path: see `spec/hops.py`. passed: value of the header that tells its way. confirm: told its end, once.
        """
        self.subject = subject
        self.message = message
        self._data = data
        self.passed = passed
        self.confirm = confirm
        self.sequence = taken.sequence
        self.attempt = taken.attempt
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

    @property
    def headers(self) -> Headers:  # type: ignore[override]  # as above
        return {names.HOPS_HEADER: self.passed}

    def again(self) -> "Handed":
        """Return the same message for one more attempt."""
        again = Handed(self, self.subject, self.origin, self.path, self.passed, self.confirm, self.message, self._data)
        again.attempt += 1
        return again


def passed_behind(work: Work, node: str) -> str:
    """Return the value of the header `Krt-Hops` of what `node` makes of a message."""
    return hops.add_hop(passed_before(work), node, int(work.run_s * 1e6))


def passed_before(work: Work) -> str:
    """Return the nodes that a message has passed inside of this process, or had when it became a dead letter."""
    delivery = work.delivery
    if isinstance(delivery, Handed):
        return delivery.passed
    if not work.path or delivery.headers is None:
        return ""
    return delivery.headers.get(names.HOPS_HEADER, "")
