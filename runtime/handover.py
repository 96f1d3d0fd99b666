"""Large bytes handed to another process in memory that both can see, so that they cross no pipe.

    ours, theirs = Handover.pair()               # `theirs` is a socket for the child to inherit
    token = ours.offer([data])                   # 0: send them some other way
    data = Handover(theirs).take(token)          # in the child, once the token has come by another channel

Each hand-over is a piece of memory of its own without a name, which the kernel frees with the last process that looks
at it: nothing is left behind, however a process ends, and what a receiver keeps is never overwritten. Where the system
has no such memory (only Linux does) nothing is handed over.
"""

import mmap
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

# Bytes from which on memory is cheaper than a channel: below, setting it up costs more than the copies that it spares.
SHARED_FROM_BYTES = 65_536

_TOKEN = struct.Struct("<Q")
_SUPPORTED = hasattr(os, "memfd_create")


class SharedBytes(mmap.mmap):
    """Bytes that were taken: read-only, without a copy, and there for as long as somebody refers to them.

    A slice is a copy; `memoryview` and numpy look at the memory itself.
    """

    def startswith(self, beginning: bytes) -> bool:
        return self[: len(beginning)] == beginning


class Handover:
    """One end. Thread-safe, and never waits."""

    def __init__(self, channel: socket.socket) -> None:
        """channel: carries the descriptors; closed by `close`."""
        channel.setblocking(False)
        self._channel = channel
        self._lock = threading.Lock()
        self._last_token = 0
        # Memory that has come for tokens which nobody has asked for yet.
        self._arrived: dict[int, SharedBytes] = {}

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return this process's end, and the socket of the other one."""
        # A descriptor belongs to its token: only a socket that keeps packets apart says which.
        kind = socket.SOCK_SEQPACKET if _SUPPORTED else socket.SOCK_STREAM
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        return cls(ours), theirs

    def offer(self, pieces: Sequence[bytes | memoryview | SharedBytes]) -> int:
        """Hand over a copy of the bytes, joined; return the token to `take` them with, or 0 where that is not possible.

        That is no failure: they are too few, the other side has not taken what was offered before, or is gone.
        """
        if not _SUPPORTED or sum(map(len, pieces)) < SHARED_FROM_BYTES:
            return 0
        try:
            return self._offer(pieces)
        except OSError:
            return 0

    def take(self, token: int) -> SharedBytes:
        """Return what was offered under a token, once. Raises OSError for a token that was not offered."""
        with self._lock:
            while token not in self._arrived:
                self._receive()
            return self._arrived.pop(token)

    def close(self) -> None:
        """Close this end. What was taken stays."""
        self._channel.close()

    def _offer(self, pieces: Sequence[bytes | memoryview | SharedBytes]) -> int:
        memory = os.memfd_create("krt-handover")
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:  # one write takes 2 GiB at most
                    rest = rest[os.write(memory, rest) :]
            with self._lock:
                token = self._last_token + 1
                socket.send_fds(self._channel, [_TOKEN.pack(token)], [memory])
                self._last_token = token
            return token
        finally:
            os.close(memory)

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._channel, _TOKEN.size, 1)
        if not descriptors:
            raise ConnectionResetError("the other process is gone")
        (token,) = _TOKEN.unpack(data)
        try:
            self._arrived[token] = SharedBytes(descriptors[0], 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptors[0])
