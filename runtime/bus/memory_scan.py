"""A scan of a stream in memory."""

import asyncio
from collections.abc import Sequence

from runtime.bus.memory_streams import MemoryStreams
from runtime.bus.stored import StoredMessage
from runtime.bus.subjects import matches
from runtime.clock import Clock
from runtime.errors import BusUnavailableError

# Messages of a page: few, so that a test sees more than one.
PAGE_MESSAGES = 100


class MemoryScan:
    """See `stored.Scan`. Making it raises NotFoundError."""

    def __init__(
        self,
        streams: MemoryStreams,
        stream: str,
        subjects: Sequence[str],
        first_sequence: int,
        since_ns: int | None,
        clock: Clock,
    ) -> None:
        self._streams = streams
        self._stream = stream
        self._subjects = tuple(subjects)
        self._since_ns = since_ns or 0
        self._next_sequence = first_sequence if since_ns is None else 1
        self._clock = clock
        self._left = len(self._rest())

    @property
    def left(self) -> int:
        return self._left

    async def read(self, *, wait_s: float = 0.0) -> list[StoredMessage]:
        if not self._rest() and wait_s > 0:
            await self._wait(wait_s)
        rest = self._rest()
        page = rest[:PAGE_MESSAGES]
        self._left = len(rest) - len(page)
        if page:
            self._next_sequence = page[-1].sequence + 1
        return page

    async def close(self) -> None:
        """Nothing is kept for it."""

    def _rest(self) -> list[StoredMessage]:
        if self._streams.paused:
            raise BusUnavailableError("the server does not answer")
        return [message for message in self._streams.stream(self._stream).messages() if self._selects(message)]

    def _selects(self, message: StoredMessage) -> bool:
        if message.sequence < self._next_sequence or message.time_ns < self._since_ns:
            return False
        return not self._subjects or any(matches(pattern, message.subject) for pattern in self._subjects)

    async def _wait(self, wait_s: float) -> None:
        """Return once a message that is selected was stored, or after `wait_s`."""
        woken = asyncio.Event()
        stream = self._streams.stream(self._stream)

        def look() -> None:
            if self._rest():
                woken.set()

        stream.on_store.add(look)
        timer = self._clock.call_later(wait_s, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()
            stream.on_store.discard(look)
