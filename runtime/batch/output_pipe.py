"""A pipe for a child process to write into; what comes out is handed over on the event loop, as it was written."""

import asyncio
import os
from collections.abc import Callable
from typing import Self, cast

# Seconds for the rest of the output once the child has ended; a process that got away could go on writing for ever.
LAST_OUTPUT_S = 2.0


class OutputPipe(asyncio.Protocol):
    """Read as fast as the receiver takes it, and no faster: a child that writes more has to wait."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        """Made by `open`."""
        self._on_data = on_data
        self._ended = asyncio.Event()
        self._transport: asyncio.ReadTransport | None = None
        self._write_fd = -1

    @classmethod
    async def open(cls, on_data: Callable[[bytes], None]) -> Self:
        """Make a pipe; `on_data` is called on the loop with each piece."""
        pipe = cls(on_data)
        read_end, pipe._write_fd = os.pipe()
        await asyncio.get_running_loop().connect_read_pipe(lambda: pipe, os.fdopen(read_end, "rb", buffering=0))
        return pipe

    @property
    def write_fd(self) -> int:
        """The end for the child to inherit."""
        return self._write_fd

    def close_write_end(self) -> None:
        """Close this process's copy, once the child has its own."""
        if self._write_fd >= 0:
            os.close(self._write_fd)
            self._write_fd = -1

    async def drain(self) -> None:
        """Hand over what is left, and close: the child has ended."""
        try:
            async with asyncio.timeout(LAST_OUTPUT_S):
                await self._ended.wait()
        except TimeoutError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        self.close_write_end()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is none by its class.
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._on_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended.set()
