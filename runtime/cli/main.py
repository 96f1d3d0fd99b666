"""The command `krt` from its first line on. The commands themselves are in `commands.py`.

What a command imports takes longer than many a command, so this module imports next to nothing before it listens for
Ctrl-C.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.cli import exits
from runtime.collector import collect_rarely


def main() -> None:
    """Run `krt` with the arguments of this process."""
    collect_rarely()
    with quiet_interrupts():
        from runtime.cli.commands import run

        run()


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """End the process without a traceback on a Ctrl-C that nobody inside the block has taken."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(exits.INTERRUPTED)
