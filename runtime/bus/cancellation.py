"""What a cancellation loses on its way through nats-py, given back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_cancellation() -> Iterator[None]:
    """Raise CancelledError after the block when the task was cancelled in it, and the block has ended all the same.

    nats-py waits with `asyncio.wait_for`, which before Python 3.12 drops a cancellation that meets the answer
    (https://github.com/python/cpython/issues/86296). A task that loops would go on for ever, and whoever ends it hang.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
