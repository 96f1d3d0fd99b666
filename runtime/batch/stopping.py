"""What ends a run before it ends by itself: somebody cancels it, or its time is over."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from runtime.batch.run import Reason

T = TypeVar("T")


class Stopping:
    """Whether a run is to stop, and why. cause: of the first request to stop, None until then."""

    def __init__(self, run_id: str) -> None:
        self.cause: Reason | None = None
        self._run_id = run_id
        self._requested = asyncio.Event()

    def request(self, cause: Reason) -> None:
        """Stop the run. A later request changes nothing."""
        if self.cause is None:
            self.cause = cause
            self._requested.set()

    async def first(self, work: Coroutine[Any, Any, T]) -> tuple[T] | None:
        """Return what is awaited, or None when the run is to stop before.

        Then, and when this is cancelled, `work` has been cancelled and has ended.
        """
        working = asyncio.create_task(work, name=f"{self._run_id} works")
        waiting = asyncio.create_task(self._requested.wait(), name=f"{self._run_id} stops")
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return (working.result(),) if working.done() else None
        finally:
            working.cancel()
            waiting.cancel()
            await asyncio.gather(working, waiting, return_exceptions=True)


async def surely(work: Coroutine[Any, Any, None]) -> None:
    """Wait until it is done, also when cancelled meanwhile."""
    task = asyncio.create_task(work, name="surely")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
