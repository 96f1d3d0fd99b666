"""Calls the methods of one source or sink: coroutines on the loop, plain methods in a thread of the component's own.

One thread for all of them, because what `open` makes may only be used where it was made (SQLite, many devices).
"""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any

from runtime.drivers.flow import Sink, Source
from runtime.drivers.runner import in_thread

# Seconds that the `close` of a component whose thread hangs may take.
CLOSE_S = 2.0

# What the contracts do by themselves, for which no thread is needed.
_NOTHING = frozenset((Source.resume, Source.open, Source.close, Sink.open, Sink.close))

_END = object()

# What the thread does next: a call, and whom to tell of its end. None ends it.
_Job = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class Calls:
    """Made on the event loop; the thread is started by the first plain method."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Calls that the thread has not ended, though perhaps nobody waits for them any more.
        self._busy = 0

    async def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method, and return what it returns or raises. Cancelling leaves a plain method running."""
        if _does_nothing(method):
            return None
        if inspect.iscoroutinefunction(method):
            return await method(*arguments)
        result = await self._in_thread(partial(method, *arguments))
        # A plain method that hands out a coroutine, as a lambda does.
        return await result if inspect.isawaitable(result) else result

    async def iterate(self, read: Callable[[], Any]) -> AsyncGenerator[Any, None]:
        """Yield what the iterator that `read` returns does. To be closed when it is left early."""
        found = read() if inspect.isasyncgenfunction(read) else await self._in_thread(read)
        if hasattr(found, "__aiter__"):
            async with contextlib.aclosing(found) as items:
                async for item in items:
                    yield item
            return
        items = iter(found)
        try:
            while (item := await self._in_thread(partial(next, items, _END))) is not _END:
                yield item
        finally:
            await self._close_iterator(items)

    async def close(self, method: Callable[[], Any]) -> None:
        """Call a `close`. If the component's thread hangs in another call, it is made from a thread beside it."""
        if not self._busy or inspect.iscoroutinefunction(method) or _does_nothing(method):
            await self.call(method)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await in_thread(f"{self._name} closed", method)

    def end(self) -> None:
        """Let the thread end once it has done what it was given."""
        if self._thread is not None:
            self._jobs.put(None)

    async def _close_iterator(self, items: Iterator[Any]) -> None:
        close = getattr(items, "close", None)
        if close is not None and not self._busy:
            await self._in_thread(close)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        if self._thread is None:
            # A daemon: one that hangs cannot keep the process.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._busy -= 1
            if not ended.done():
                ended.set_result((result, error))

        def tell(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before a thread that hung
                loop.call_soon_threadsafe(settle, result, error)

        self._busy += 1
        self._jobs.put((function, tell))
        result, error = await ended
        if error is not None:
            raise error
        return result

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, tell = job
            try:
                result = function()
            except StopIteration as error:  # cannot be raised out of a coroutine
                tell(None, RuntimeError(f"StopIteration outside of an iterator: {error}"))
            except Exception as error:  # the component's own; told to the loop
                tell(None, error)
            except BaseException as error:  # SystemExit: a component cannot end the process
                tell(None, RuntimeError(f"the component raised {error!r}"))
            else:
                tell(result, None)


def _does_nothing(method: Callable[..., Any]) -> bool:
    return getattr(method, "__func__", None) in _NOTHING
