"""What runs in a worker's child process: read a request, answer it, read the next. Its parent's side is `workers.py`.

Started as a script, so that neither the parent's folder nor this one is where the job's modules are looked for. A frame
is the number of its bytes and the bytes. Standard output and error are free for whatever the job prints.
"""

import contextlib
import importlib
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

# Before every frame: its length in bytes, 64 bits, little-endian.
LENGTH = struct.Struct("<Q")
# Bytes asked for at once: as much as a socket of the kernel holds.
CHUNK_BYTES = 262_144

Answer = Callable[[bytes], bytes]


def main(job: str, channel_fd: int, *passed_fds: int) -> None:
    """Run `job`, which is `module:function` of a function that returns what answers each request.

    passed_fds: the function's arguments, other descriptors that the parent has passed on.
    """
    # Behind everything else: what is installed stays as it was, and a source tree is found.
    sys.path.append(str(Path(__file__).parents[1]))
    _let_parent_go_on()
    channel = socket.socket(fileno=channel_fd)
    # A program that the job starts must not hold the channel open, and a copy of this process must not answer.
    channel.set_inheritable(False)
    os.register_at_fork(after_in_child=channel.close)
    module, _, function = job.partition(":")
    make: Callable[..., Answer] = getattr(importlib.import_module(module), function)
    serve(channel, make(*passed_fds))


def _let_parent_go_on() -> None:
    """Wake up without taking the processor from the parent, which has more to send; see SCHED_BATCH in sched(7)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and then only time is lost
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def serve(channel: socket.socket, answer: Answer) -> None:
    """Answer requests until the parent closes the channel, or is gone; what `answer` raises ends the process."""
    while (request := _receive(channel)) is not None:
        result = answer(request)
        try:
            _send(channel, result)
        except OSError:  # the parent is gone, or this is a copy of the process that the job has made
            return


def _send(channel: socket.socket, result: bytes) -> None:
    """Send a frame; a small one at once, for each piece wakes the parent up."""
    length = LENGTH.pack(len(result))
    if len(result) < CHUNK_BYTES:
        channel.sendall(length + result)
    else:
        channel.sendall(length)
        channel.sendall(result)


def _receive(channel: socket.socket) -> bytes | None:
    """Return the next request, None at the end of the channel. The parent sends none before it has the last answer."""
    data = bytearray()
    end = LENGTH.size
    while len(data) < end:
        try:
            chunk = channel.recv(CHUNK_BYTES)
        except OSError:  # reset, by a parent that was killed
            return None
        if not chunk:
            return None
        data += chunk
        if len(data) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(data)[0]
    return bytes(memoryview(data)[LENGTH.size :])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
