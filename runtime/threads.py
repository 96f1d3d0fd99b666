"""Worker threads for plain `def` handlers. A thread whose call overran is left behind and replaced.

One call at a time per thread; with a single thread `init`, handler and `teardown` share it. A Python thread cannot be
killed, so what a caller gave up keeps its thread until it returns by itself; `stuck` counts those.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

_Call = tuple[asyncio.Future[Any], Callable[[], Any], contextvars.Context]


class HandlerThreads:
    """`count` daemon threads (a stuck handler must not hold up the end of the process)."""

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._started = 0
        self._running: dict[asyncio.Future[Any], threading.Thread] = {}
        self._abandoned: set[threading.Thread] = set()
        for _ in range(count):
            self._start_thread()

    @property
    def stuck(self) -> int:
        """Threads that still run a call which nobody waits for."""
        return len(self._abandoned)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` in a thread, with the caller's context variables, and return or raise what it does.

        Cancelling leaves the call running, abandons its thread and starts another in its place.
        """
        done: asyncio.Future[Any] = self._loop.create_future()
        self._calls.put((done, lambda: function(*arguments), contextvars.copy_context()))
        try:
            return await done
        except asyncio.CancelledError:
            self._abandon(done)
            raise

    def close(self) -> None:
        """Let idle threads end; busy ones end with their call."""
        for _ in range(self._started):
            self._calls.put(None)

    def _start_thread(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()

    def _abandon(self, done: asyncio.Future[Any]) -> None:
        thread = self._running.get(done)
        if thread is not None:
            self._abandoned.add(thread)
            self._start_thread()

    def _work(self) -> None:
        thread = threading.current_thread()
        while (call := self._calls.get()) is not None:
            done, function, context = call
            # Registered before the look at `cancelled`: in the other order a cancel between the two would be missed.
            self._running[done] = thread
            result: Any = None
            failure: BaseException | None = None
            if not done.cancelled():
                try:
                    result = context.run(function)
                except BaseException as error:  # handed to the caller, whatever it is
                    failure = error
            del self._running[done]
            try:
                self._loop.call_soon_threadsafe(_finish, done, result, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            if thread in self._abandoned:  # it was replaced
                self._abandoned.discard(thread)
                return


def _finish(done: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if done.cancelled():
        return
    if failure is None:
        done.set_result(result)
    elif isinstance(failure, StopIteration):  # a future takes no StopIteration
        done.set_exception(RuntimeError("the handler raised StopIteration"))
    else:
        done.set_exception(failure)
