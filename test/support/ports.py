"""Ports for servers of tests that have to know their port before they listen, or keep it over a restart.

A port that the kernel hands out for `bind(0)` may be given to any connection before the server listens on it. These
lie below the kernel's own range, and every worker process has a share of its own.
"""

import itertools
import os
import re
import socket
from collections.abc import Iterator

FIRST = 20_000
# Ports of one worker process; a port is used again when all have had their turn.
SHARE = 1_000
SHARES = 12

_worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0")))
_share = range(FIRST + _worker % SHARES * SHARE, FIRST + (_worker % SHARES + 1) * SHARE)
# Two runs on one machine begin at different ports.
_ports: Iterator[int] = itertools.cycle([*_share[os.getpid() % SHARE :], *_share[: os.getpid() % SHARE]])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on and that is given to nobody else."""
    for port in itertools.islice(_ports, SHARE):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port of {_share.start} to {_share.stop - 1} is free")
