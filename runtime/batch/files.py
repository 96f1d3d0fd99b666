"""Files of a run as they are read after its end: opened without following links, in pieces, with names made text.

A file's name is data: it may hold spaces, newlines, and bytes that are no UTF-8.
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from io import BufferedReader
from pathlib import Path

# Bytes that are read at once.
PIECE_BYTES = 1024 * 1024


class NoRegularFileError(OSError):
    """What was to be read as a file of a run is a link, a device, a FIFO, a socket or a folder."""


def text_of(path: str) -> str:
    r"""Return a path, as the system gives it, as valid Unicode: a backslash becomes `\\`, a byte that is none `\xe9`.

    No two paths become the same text.
    """
    return path.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Raises NoRegularFileError, OSError.

    The last part of the path is not followed if it is a link, and a FIFO without a writer does not block.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NoRegularFileError(f"{str(path)!r} is no regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NoRegularFileError(f"{str(path)!r} is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


async def read_pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield a file, read in threads. Raises NoRegularFileError, OSError."""
    file = await asyncio.to_thread(open_regular, path)
    try:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
    finally:
        file.close()


def sha256_of(path: Path) -> str:
    """Return the hash of a file, as hex. Blocking. Raises NoRegularFileError, OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
