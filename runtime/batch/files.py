"""Files of a run as they are read after its end: opened without following links, in pieces, with names made text.

A file's name is data: it may hold spaces, newlines, and bytes that are no UTF-8.
"""

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator
from io import BufferedReader
from pathlib import Path

# Bytes that are read at once.
PIECE_BYTES = 1024 * 1024

# Characters that control a terminal, break lines, or that a listing of S3 cannot hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class NoRegularFileError(OSError):
    """What was to be read as a file of a run is a link, a device, a FIFO, a socket or a folder."""


def text_of(path: str) -> str:
    r"""Return a path, as the system gives it, as plain Unicode: `\n` becomes `\x0a`, a byte that is none `\xe9`.

    A backslash becomes two of them, so that no two paths become the same text.
    """
    plain = CONTROL.sub(_escape, path.replace("\\", "\\\\"))
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _escape(control: re.Match[str]) -> str:
    # From 128 on, `\x` stands for a byte.
    return f"\\x{ord(control[0]):02x}" if control[0].isascii() else f"\\u{ord(control[0]):04x}"


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
