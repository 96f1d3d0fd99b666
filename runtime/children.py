"""Child processes that do not outlive their parent, however it ends.

Owns the one call to the operating system behind it, and the words for how a process has ended. Starting, watching and
stopping children is the caller's.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

# linux/prctl.h: the signal that a process receives when the thread that started it ends.
PR_SET_PDEATHSIG = 1

# Exit code of a child whose parent was gone before the child could ask for the signal.
ORPHANED_EXIT_CODE = 70


def die_with_parent(signal_number: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """Return a `preexec_fn` for subprocess: the child is sent the signal when its parent ends, by SIGKILL as well.

    The kernel ties the child to the *thread* that starts it: start it from the main thread, or from one that lives as
    long as the child shall. Only Linux offers this; elsewhere the function does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    # Loaded here: between fork and exec nothing may be imported or allocated that another thread could hold a lock on.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent_pid = os.getpid()

    def ask_for_signal() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
        # A parent that died before the line above will never send the signal.
        if os.getppid() != parent_pid:
            os._exit(ORPHANED_EXIT_CODE)

    return ask_for_signal


def describe_exit(exit_code: int) -> str:
    """Return an exit code in words: `exit code 1`, or `SIGKILL` for a process ended by a signal."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
