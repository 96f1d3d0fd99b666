"""The last answers of a model host, by call id: a call that is delivered again gets the answer of its first run.

A call that still runs is joined. So a workflow message that is redelivered does not tick a model twice. No I/O.
"""

import asyncio
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

# Calls that are remembered.
REMEMBERED = 64


class CallMemory(Generic[T]):
    """Answers, or those that are to come, by call id."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        # In the order of their calls.
        self._answers: OrderedDict[str, asyncio.Future[T]] = OrderedDict()

    def recall(self, call_id: str) -> "asyncio.Future[T] | None":
        """Return the answer of this call, now or later; None when it is not known. Await it shielded."""
        return self._answers.get(call_id)

    def expect(self, call_id: str) -> "asyncio.Future[T]":
        """Note that a call runs, and return where its answer is to go."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._answers[call_id] = answer
        return answer

    def forget(self, call_id: str) -> None:
        """Let a call be run again that did not reach the model."""
        self._answers.pop(call_id, None)

    def trim(self) -> None:
        """Forget the oldest answer if there are too many; to be called for each that is to be remembered."""
        if len(self._answers) > self._size:
            self._answers.popitem(last=False)
