"""What the worker processes of tests do. A request is a word, and what it is about."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable

# Longer than any test lives.
FOR_EVER_S = 3600


def make_answer() -> Callable[[bytes], bytes]:
    """Return the answers of the worker that most tests use."""
    print("made")
    return answer


def fail_to_start() -> Callable[[bytes], bytes]:
    raise RuntimeError("no model here")


def answer(request: bytes) -> bytes:
    word, _, rest = request.partition(b" ")
    return _ANSWERS[word](rest)


def _print(text: bytes) -> bytes:
    os.write(1, text + b"\n")
    print("to standard error", file=sys.stderr)
    return b""


def _hang(_: bytes) -> bytes:
    # One instruction that holds the interpreter lock for ever.
    return str(10**9 % pow(7, 10**9, 2**4096 - 1) + pow(3, 2**62, 2**65536 - 1)).encode()


def _sleep(_: bytes) -> bytes:
    time.sleep(FOR_EVER_S)
    return b""


def _fork(_: bytes) -> bytes:
    """Come back twice, as a careless `os.fork` does."""
    return b"child" if os.fork() == 0 else b"parent"


def _leave_program(_: bytes) -> bytes:
    program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOR_EVER_S})"])
    return str(program.pid).encode()


def _leave_fork(_: bytes) -> bytes:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(FOR_EVER_S,))
    process.start()
    return str(process.pid).encode()


def _allocate(size: bytes) -> bytes:
    try:
        return str(len(bytearray(int(size)))).encode()
    except MemoryError:
        return b"refused"


def _await(_: bytes) -> bytes:
    return asyncio.run(asyncio.sleep(0, b"awaited"))


def _close_everything(_: bytes) -> bytes:
    os.closerange(3, 256)
    time.sleep(FOR_EVER_S)
    return b""


_ANSWERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"echo": lambda rest: rest,
    b"environ": lambda _: "\n".join(f"{name}={value}" for name, value in os.environ.items()).encode(),
    b"group": lambda _: f"{os.getpid()} {os.getpgid(0)}".encode(),
    b"print": _print,
    b"hang": _hang,
    b"sleep": _sleep,
    b"fork": _fork,
    b"program": _leave_program,
    b"leave": _leave_fork,
    b"allocate": _allocate,
    b"await": _await,
    b"close": _close_everything,
    b"exit": lambda code: os._exit(int(code)),
    b"raise": lambda text: (_ for _ in ()).throw(RuntimeError(text.decode())),
}
