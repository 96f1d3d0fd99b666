"""The lines that a child process prints, as its parent takes them: handed over on the event loop, one by one."""

import asyncio
import os
from collections.abc import Callable

# Bytes of one read from a pipe, and of a line that is handed over without waiting for its end.
CHUNK_BYTES = 65_536
MAX_LINE_BYTES = 1_048_576
# Reads from the pipe of a process that has ended; a grandchild that got away could go on writing for ever.
LAST_READS = 64


class LinePipe:
    """A pipe for a child to inherit; what comes out of it is handed over line by line on the event loop."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        asyncio.get_running_loop().add_reader(self._read_fd, self._read)

    def close_write_end(self) -> None:
        """Close this process's copy, once the child has its own."""
        os.close(self.write_fd)

    def close(self) -> None:
        """Hand over what the child has left, and release the pipe."""
        for _ in range(LAST_READS):
            if not self._read():
                break
        if self._rest:
            self._hand_over(self._rest)
        asyncio.get_running_loop().remove_reader(self._read_fd)
        os.close(self._read_fd)

    def _read(self) -> bool:
        """Hand over the complete lines of one read; False when there was nothing."""
        try:
            chunk = os.read(self._read_fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            # The end of a pipe stays readable, and would call back for ever.
            asyncio.get_running_loop().remove_reader(self._read_fd)
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._hand_over(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._hand_over(self._rest)
            self._rest = b""
        return True

    def _hand_over(self, line: bytes) -> None:
        self._on_line(line.decode(errors="replace").removesuffix("\r"))
