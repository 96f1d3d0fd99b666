"""Contract of core NATS, the part of `base.py` for messages without a stream: at most once, nothing is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import BusError

Headers = Mapping[str, str]

# Headers of the server's own answer where nobody listens.
NO_RESPONDERS: Headers = {"Status": "503"}


@dataclass(frozen=True, slots=True)
class CoreMessage:
    """A message without a stream (requests, replies). `reply` is "" when no answer is expected."""

    subject: str
    data: bytes
    reply: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class Question:
    """One of several requests that are sent together. Those with the same headers share one mapping."""

    subject: str
    data: bytes
    headers: Headers | None = None


# Number of a question, from 0 in their order, and its answer, or why there is none.
OnAnswer = Callable[[int, CoreMessage | BusError], None]


class Subscription(Protocol):
    async def unsubscribe(self) -> None:
        """Stop; messages that have arrived are still handed over."""
        ...


class Scattered(Protocol):
    """Questions that have been sent together."""

    def close(self) -> None:
        """Wait for no further answer; what has not left this process is not sent. Repeating it is fine."""
        ...


class Core(Protocol):
    """What a connection knows of core NATS; `base.Bus` has it, too."""

    @property
    def online_s(self) -> float:
        """Seconds since the connection was made, or made again; 0 while it is lost."""
        ...

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Write a message that nobody confirms; lost when nobody listens or the connection is down for long.

        reply: who gets the answer, or an empty message with the headers `NO_RESPONDERS` when nobody listens.
        """
        ...

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Headers | None = None
    ) -> CoreMessage:
        """Ask and wait; cancelling leaves open whether it was heard.

        Raises NoRespondersError and AccessError (at once), BusUnavailableError (no answer in time),
        MessageTooLargeError.
        """
        ...

    async def scatter(self, questions: Sequence[Question], on_answer: OnAnswer) -> Scattered:
        """Send many requests, and return when they are on their way. To be closed, for there is no time limit.

        `on_answer` is called on the loop, once at most for each question: with its answer, with NoRespondersError when
        nobody listens, or with AccessError when the server forbids the subject. It is never called before this returns.
        Raises BusClosedError, MessageTooLargeError (nothing is sent).
        """
        ...

    async def subscribe(
        self, subject: str, callback: Callable[[CoreMessage], None], *, queue: str = ""
    ) -> Subscription:
        """Call back for every message, in order, on the loop; the callback only appends or schedules.

        The subscription is known to the server when this returns.
        """
        ...

    def new_inbox(self) -> str:
        """Return a subject prefix that no other connection uses."""
        ...
