"""Worker processes: children for code that may block, leak or crash; they can be killed with all they have started.

    worker = await Worker.start("package.module:make_answer", on_line=log_line)
    answer = await worker.ask(b"request")                # one at a time; WorkerEndedError when the process ends
    worker.kill()                                        # or, in order, `await worker.close()`

A worker gets a session of its own, an environment without settings and secrets of its parent, and a private channel
for requests; what it prints becomes lines. It is killed by the kernel when its parent ends. None of this keeps hostile
code in: that takes a container, or another user. The child's side is `worker_child.py`.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, cast

from runtime import worker_child
from runtime.children import describe_exit, die_with_parent
from runtime.errors import WorkerBusyError, WorkerEndedError
from runtime.line_pipe import LinePipe
from runtime.worker_child import LENGTH

# What a worker takes over of its parent's environment; names that end in `_` are beginnings of names.
INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "LC_", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV",
    "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_",
)  # fmt: skip
# What the process prints is seen at once, also when it crashes.
_PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
# Seconds that a worker has to end by itself after its channel was closed.
CLOSE_GRACE_S = 5.0
# Seconds to hear what an ended worker has sent last; a process that got away could hold the channel open for ever.
LAST_ANSWER_S = 1.0


class Worker:
    """One child process that answers requests, one after the other. To be used on the event loop that started it."""

    def __init__(self, process: asyncio.subprocess.Process, channel: "_Channel", output: LinePipe) -> None:
        """Made by `start`."""
        self._process = process
        self._channel = channel
        self._ended = asyncio.create_task(self._watch(output), name=f"worker {process.pid}")

    @classmethod
    async def start(
        cls,
        job: str,
        *,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        memory_bytes: int = 0,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start a process; it may still be importing when this returns, and has ended if that fails.

        job: `module:function`; the function is called once, and returns what answers a request (bytes -> bytes).
        on_line: called on the loop with each line that the process prints. environment: beside `INHERITED`. folder: its
        current one. memory_bytes: of data, for each of its processes (RLIMIT_DATA); 0 is no limit. pass_fds:
        descriptors that it is to have, too, under the same numbers; the function gets them as its arguments.
        Call it on the main thread: the worker lives no longer than the thread. Raises OSError.
        """
        ours, theirs = socket.socketpair()
        output = LinePipe(on_line)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", worker_child.__file__, job, *map(str, (theirs.fileno(), *pass_fds)),
                stdin=subprocess.DEVNULL,
                stdout=output.write_fd,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), *pass_fds],
                env=scrubbed(os.environ) | _PYTHON | dict(environment or {}),
                cwd=folder,
                start_new_session=True,
                preexec_fn=_prepare(memory_bytes),
            )  # fmt: skip
        except BaseException:
            ours.close()
            output.close()
            raise
        finally:
            theirs.close()
            output.close_write_end()
        make = partial(_Channel, kill=partial(_kill_group, process.pid))
        _, channel = await asyncio.get_running_loop().create_unix_connection(make, sock=ours)
        return cls(process, channel, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return not self._ended.done()

    @property
    def is_busy(self) -> bool:
        """Whether a request has no answer yet, that of a cancelled `ask` included."""
        return self._channel.answer is not None

    async def ask(self, request: bytes) -> bytes:
        """Return the answer to a request of any size.

        Cancelling does not reach the process, which goes on with the request: it stays busy until it has answered, or
        is killed. Raises WorkerBusyError (nothing was sent), WorkerEndedError.
        """
        if self._ended.done():
            raise _ended(self._ended.result())
        if self.is_busy:
            raise WorkerBusyError(f"worker {self.pid} has not answered its last request")
        return await self._channel.ask(request)

    async def wait(self) -> int:
        """Return the exit code, or minus the signal's number, once the process and its group are gone."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End the process and all in its group, stopped ones too; what `ask` waits for raises WorkerEndedError."""
        if self.is_alive:
            _kill_group(self.pid)

    async def close(self, grace_s: float = CLOSE_GRACE_S) -> int:
        """Let the process end by itself after the request it works on, kill it after `grace_s`; return its exit code.

        Cancelling kills at once.
        """
        self._channel.close()
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        return await self.wait()

    async def _watch(self, output: LinePipe) -> int:
        exit_code = await self._process.wait()
        # What it has started; its answer, if it gave one before it ended, is still read.
        _kill_group(self.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWER_S):
                await self._channel.lost.wait()
        await self._channel.end(_ended(exit_code))
        output.close()
        return exit_code


class _Channel(asyncio.Protocol):
    """This process's end of the channel: frames out, frames in."""

    def __init__(self, kill: Callable[[], None]) -> None:
        """kill: ends the process."""
        self.lost = asyncio.Event()
        # Of the request that has no answer yet.
        self.answer: asyncio.Future[bytes] | None = None
        self._kill = kill
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is none by its class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()
        # The process is about to end, or has closed what it never opened, and would be waited for for ever.
        asyncio.get_running_loop().call_later(LAST_ANSWER_S, self._kill_silent)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < LENGTH.size:
            return
        end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
        if len(self._received) >= end:
            answer = bytes(memoryview(self._received)[LENGTH.size : end])
            self._received = bytearray()
            self._settle(lambda future: future.set_result(answer))

    async def ask(self, request: bytes) -> bytes:
        assert self._transport is not None
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.answer = answer
        if self.lost.is_set():
            self._kill()
        else:
            self._transport.writelines((LENGTH.pack(len(request)), request))
        return await answer

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    async def end(self, error: WorkerEndedError) -> None:
        if self._transport is not None:
            self._transport.abort()
            await self.lost.wait()
        self._settle(lambda future: future.set_exception(error))

    def _kill_silent(self) -> None:
        if self.answer is not None:
            self._kill()

    def _settle(self, settle: Callable[["asyncio.Future[bytes]"], None]) -> None:
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():  # cancelled: nobody waits any more
            settle(answer)


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment a worker may see."""
    beginnings = tuple(name for name in INHERITED if name.endswith("_"))
    return {name: value for name, value in environ.items() if name in INHERITED or name.startswith(beginnings)}


def _prepare(memory_bytes: int) -> Callable[[], None]:
    """Return what the child does before it becomes the worker."""
    tie = die_with_parent(signal.SIGKILL)
    limit = (memory_bytes, memory_bytes)

    def prepare() -> None:
        tie()
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, limit)

    return prepare


def _ended(exit_code: int) -> WorkerEndedError:
    return WorkerEndedError(f"the process has ended with {describe_exit(exit_code)}", exit_code=exit_code)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
