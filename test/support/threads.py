"""Threads that a test leaves behind."""

import threading
from collections.abc import Collection

# Seconds until a thread that has told what it was made for has ended, on a loaded machine.
END_S = 5.0


def left_behind(before: Collection[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that go on, but for those that were there `before`. One that is about to end is waited for."""
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(END_S)
    return [thread for thread in new if thread.is_alive()]
