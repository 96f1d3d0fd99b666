"""What runs in a worker process of a runner: imports the adapter at the first request, then answers calls.

Frames from the parent are the adapter once, then for each call the algorithm, a line break and the body. Frames
back are a mark and JSON: what the adapter offers, or refuses to; a result, or a failure.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import asdict

import orjson

from runtime.algorithms.call import answer_of, awaited, perform
from runtime.algorithms.discover import Description, Offer, discover
from runtime.algorithms.wire import Answer, Failure
from runtime.errors import AdapterError

# The job of `workers.Worker.start`.
JOB = f"{__name__}:make_answer"

_DONE, _FAILED = b"+", b"-"


def make_answer() -> Callable[[bytes], bytes]:
    """Return what answers the frames of the parent."""
    return _Child().answer


class _Child:
    def __init__(self) -> None:
        self._offer: Offer | None = None
        # One loop for all calls of coroutine functions, so that what they keep between calls lives on.
        self._loop = asyncio.Runner()

    def answer(self, frame: bytes) -> bytes:
        if self._offer is None:
            return self._discover(frame.decode())
        name, _, body = frame.partition(b"\n")
        answer = self._call(self._offer, name.decode(), body)
        return _FAILED + answer.encode() if isinstance(answer, Failure) else _DONE + answer

    def _discover(self, adapter: str) -> bytes:
        try:
            self._offer = discover(adapter)
        except AdapterError as error:
            return _FAILED + orjson.dumps(error.problems)
        return _DONE + orjson.dumps([asdict(each) for each in self._offer.descriptions])

    def _call(self, offer: Offer, name: str, body: bytes) -> Answer:
        done = perform(offer.algorithms[name], body)
        if inspect.isawaitable(done):
            return answer_of(self._loop.run(awaited(done)))
        return done


# --- the parent's side of the frames ---


def call_frame(name: str, body: bytes) -> bytes:
    """Return the request for a call."""
    return name.encode() + b"\n" + body


def read_offer(frame: bytes) -> list[Description]:
    """Return what the adapter offers. Raises AdapterError."""
    told = orjson.loads(frame[1:])
    if frame.startswith(_FAILED):
        raise AdapterError(told)
    return [Description(**each) for each in told]


def read_answer(frame: bytes) -> Answer:
    """Return the answer to a call."""
    return Failure.decode(frame[1:]) if frame.startswith(_FAILED) else frame[1:]
