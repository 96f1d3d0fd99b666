"""Processes of this host as Linux shows them in /proc: when one was started, and those that bear a mark.

A mark is an environment variable that a process was started with: children have it too, daemonised ones included.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

# Times that a tree of processes is looked for again: what forks while it is being killed shows up in the next round.
KILL_ROUNDS = 100


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since the boot; 0 if there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    # Behind the name: state, parent, …; the 22nd field of proc(5) is the 20th here.
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def kill_marked(variable: str, is_meant: Callable[[str], bool]) -> int:
    """Kill every process whose variable has a value that is meant; returns how many there were."""
    killed: set[int] = set()
    for _ in range(KILL_ROUNDS):
        found = {pid for pid, value in _marked(variable) if is_meant(value)}
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
    return len(killed)


def _marked(variable: str) -> Iterator[tuple[int, str]]:
    mark = f"{variable}=".encode()
    for name in os.listdir("/proc"):
        # One that is ending has an empty environment, and is not found again.
        with suppress(OSError):
            if name.isdecimal():
                with open(f"/proc/{name}/environ", "rb") as file:
                    for entry in file.read().split(b"\0"):
                        if entry.startswith(mark):
                            yield int(name), os.fsdecode(entry[len(mark) :])
