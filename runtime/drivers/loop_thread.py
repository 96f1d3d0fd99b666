"""An event loop on a thread of its own, for callers who have none: how plain code and other loops reach it."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from runtime.errors import BusClosedError

T = TypeVar("T")


class LoopThread:
    """A running loop. Its thread lives until `stop`; child processes that it starts do not outlive it."""

    def __init__(self, name: str) -> None:
        self._ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.loop = self._ready.result()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this loop's thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, wait for it from another thread, and return its result or raise its error.

        An interrupt of the caller (Ctrl-C) cancels it.
        """
        if self.is_current:
            work.close()
            raise RuntimeError("this call would block the loop that it waits for; await its form with an `a` before it")
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def acall(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, awaited from any loop."""
        if self.is_current:
            return await work
        return await asyncio.wrap_future(self._submit(work))

    def stop(self) -> None:
        """End the loop, cancelling what is left on it, and the thread. Repeating it is fine."""
        if self.is_alive:
            self.loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as error:
            work.close()
            raise BusClosedError("the runtime has been stopped") from error

    def _run(self) -> None:
        asyncio.run(self._until_end())

    async def _until_end(self) -> None:
        self._ready.set_result(asyncio.get_running_loop())
        await self._end.wait()


def call_on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Call a function on the loop of another thread, and return what it returns or raises.

    Raises BusClosedError when the loop has ended.
    """
    called: concurrent.futures.Future[T] = concurrent.futures.Future()

    def call() -> None:
        try:
            called.set_result(function())
        except Exception as error:  # the caller's, who waits in another thread
            called.set_exception(error)

    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError as error:
        raise BusClosedError("the process that holds the connection has ended") from error
    return called.result()
