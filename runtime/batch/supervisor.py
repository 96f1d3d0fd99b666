"""The parent of one run's process (Linux): ends all that the model has started, and tells how the model has ended.

    worker ──order, "stop SECONDS"──▶ supervisor ──▶ model ──▶ whatever it starts
           ◀──"started PID", "ended …"──

As a subreaper it inherits what daemonises. When the channel ends, the worker is gone, and everything is killed. It is
imported into a bare interpreter (`COMMAND`), and imports little itself, for each run waits for that: no dataclasses, no
contextlib, no typing.
"""

import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# How a supervisor is started, with the folder of this file and the file descriptor of its channel behind. Imported, and
# not run as a script, it is compiled once and not for every run.
COMMAND = "import sys; sys.path.append(sys.argv[1]); import supervisor; supervisor.main(int(sys.argv[2]))"
# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# Signals that Python ignores, and a program expects to end by.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# Seconds between two looks at what the known processes of a tree use.
LOOK_EVERY_S = 0.1
# Between two searches for new ones, as a multiple of what a search takes: it reads the whole of /proc.
SEARCHES_SHARE = 50.0
# Seconds after which processes that do not even end by SIGKILL (a dead network file system) are left to the system.
KILL_S = 10.0
KILL_EVERY_S = 0.005
# What a model has data for, by the limit of its memory: the look at the tree, which can say why, is to come first.
DATA_FACTOR = 2
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """One process: of whom it is a child, its threads, and its memory in bytes, with what it shares."""

    __slots__ = ("parent", "resident_bytes", "threads")

    def __init__(self, *, parent: int, threads: int, resident_bytes: int) -> None:
        self.parent = parent
        self.threads = threads
        self.resident_bytes = resident_bytes


class Tree:
    """The model's process, and everything below this one."""

    def __init__(self, model: int, *, memory_bytes: int, pids: int) -> None:
        self.status: int | None = None
        self._model = model
        self._memory_bytes = memory_bytes
        self._pids = pids
        self._known: dict[int, Usage] = {}
        self._next_search_s = 0.0

    def reap(self) -> bool:
        """Take note of what has ended; False when there are no children any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._model:
                self.status = status

    def send(self, signal_number: int) -> None:
        for pid in descendants():
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """End everything; what forks meanwhile is killed in the next round."""
        give_up_s = time.monotonic() + KILL_S
        while self.reap() and time.monotonic() < give_up_s:
            self.send(signal.SIGKILL)
            time.sleep(KILL_EVERY_S)

    def excess(self) -> str:
        """Return which limit the whole tree is beyond: `memory`, `pids`, or "" for none."""
        if not self._memory_bytes and not self._pids:
            return ""
        used = self._usage()
        if self._pids and sum(usage.threads for usage in used.values()) > self._pids:
            return "pids"
        if self._memory_bytes and sum(usage.resident_bytes for usage in used.values()) > self._memory_bytes:
            # Pages that forked processes share count once; telling them apart is slow, and seldom needed.
            if sum(own_bytes(pid, usage) for pid, usage in used.items()) > self._memory_bytes:
                return "memory"
        return ""

    def _usage(self) -> dict[int, Usage]:
        begun_s = time.monotonic()
        if begun_s >= self._next_search_s:
            self._known = descendants()
            now_s = time.monotonic()
            self._next_search_s = now_s + SEARCHES_SHARE * (now_s - begun_s)
        else:
            self._known = {pid: usage for pid in self._known if (usage := read_usage(str(pid)))}
        return self._known


def descendants() -> dict[int, Usage]:
    """Return all processes that have this one above them."""
    processes = {int(name): usage for name in os.listdir("/proc") if name.isdecimal() and (usage := read_usage(name))}
    found: dict[int, Usage] = {}
    parents = {os.getpid()}
    while parents:
        children = {pid: usage for pid, usage in processes.items() if usage.parent in parents and pid not in found}
        found |= children
        parents = set(children)
    return found


def read_usage(pid: str) -> Usage | None:
    """Return what proc(5) says in `stat`; None for a process that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Usage(parent=int(fields[1]), threads=int(fields[17]), resident_bytes=int(fields[21]) * PAGE_BYTES)


def own_bytes(pid: int, usage: Usage) -> int:
    """Return a process's share of the memory that it uses (PSS), or all of it where the system does not tell."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return usage.resident_bytes


def supervise(channel: int, tree: Tree, model: int) -> str:
    """Return why the tree was ended: `memory`, `pids`, `stop`, or "" where the model has ended by itself."""
    watched = select.poll()
    model_end = os.pidfd_open(model)
    watched.register(channel, select.POLLIN)
    watched.register(model_end, select.POLLIN)
    kill_at_s = float("inf")
    reason = ""
    while True:
        wait_s = min(LOOK_EVERY_S, max(kill_at_s - time.monotonic(), 0.0))
        ready = {fd for fd, _ in watched.poll(wait_s * 1000)}
        tree.reap()
        if tree.status is not None:
            return reason
        if channel in ready:
            grace_s = read_grace(channel)
            if grace_s is None:  # the worker is gone
                return "stop"
            reason, kill_at_s = "stop", min(kill_at_s, time.monotonic() + grace_s)
            tree.send(signal.SIGTERM)
        if time.monotonic() >= kill_at_s:
            return reason
        if excess := tree.excess():
            return excess


def read_grace(channel: int) -> float | None:
    """Return the seconds of an order to stop, None at the end of the channel."""
    try:
        words = os.read(channel, 256).split()
    except OSError:  # reset, by a worker that was killed
        return None
    return float(words[-1]) if words else None


def start(order: "dict[str, Any]") -> int:
    """Start the model and return its process id. Raises OSError with what the system has against it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        become_model(order, write_end)
    os.close(write_end)
    # Closed by the kernel once the program runs.
    refusal = os.read(read_end, 4096).decode(errors="replace")
    os.close(read_end)
    if refusal:
        raise OSError(refusal)
    return pid


def become_model(order: "dict[str, Any]", write_end: int) -> "NoReturn":
    """Turn this process into the model, or write down why not."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        limit(order)
        os.chdir(order["folder"])
        os.execvpe(order["argv"][0], order["argv"], order["environment"])
    except (OSError, ValueError) as error:  # ValueError: a text with a null byte
        os.write(write_end, str(error).encode(errors="replace")[:4096])
    finally:
        os._exit(127)


def limit(order: "dict[str, Any]") -> None:
    """Set what the kernel enforces for each process by itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory_bytes"] * DATA_FACTOR,) * 2)
    if order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
    if order["cores"]:
        os.sched_setaffinity(0, order["cores"])


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl is refused")


def receive_order(channel: int) -> "dict[str, Any]":
    """Read what to run: the number of its bytes in a line, then marshalled by the same Python."""
    head = bytearray()
    while not head.endswith(b"\n"):
        head += read(channel, 1)
    order: dict[str, Any] = marshal.loads(read(channel, int(head)))
    return order


def read(channel: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(channel, size - len(data))
        if not chunk:  # the worker is gone, nothing was started
            sys.exit()
        data += chunk
    return data


def tell(channel: int, line: str) -> None:
    try:
        os.write(channel, f"{line}\n".encode(errors="replace"))
    except OSError:  # nobody listens any more
        return


def main(channel: int) -> None:
    """Run one order to its end."""
    order = receive_order(channel)
    os.set_inheritable(channel, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        model = start(order)
    except OSError as error:
        tell(channel, f"refused {str(error).splitlines()[0]}")
        return
    tell(channel, f"started {model}")
    tree = Tree(model, memory_bytes=order["memory_bytes"], pids=order["pids"])
    reason = supervise(channel, tree, model)
    tree.kill()
    tell(channel, f"ended {tree.status if tree.status is not None else signal.SIGKILL} {reason}")
