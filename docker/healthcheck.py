"""HEALTHCHECK of the image: does a process of this container hold a connection to a server of KRT_NATS_SERVER?

A node, a writer and a manager keep theirs for as long as they work. One that hangs loses it after some minutes, when
it has left the server's pings unanswered. Only the standard library is used, and nothing is sent.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Where an address has no port: of NATS, and over WebSocket those of HTTP.
DEFAULT_PORTS = {"ws": 80, "wss": 443}
DEFAULT_NATS_PORT = 4222
# State of a TCP connection that stands, in the kernel's tables.
ESTABLISHED = "01"


def ports(servers: str) -> set[int]:
    """Return the ports of `host[:port]` or `nats://host[:port]`, separated by commas."""
    return {_port(server.strip()) for server in servers.split(",")}


def _port(server: str) -> int:
    match = re.search(r":(\d+)$", server)
    return int(match[1]) if match else DEFAULT_PORTS.get(server.partition("://")[0], DEFAULT_NATS_PORT)


def connected_sockets(table: str, remote_ports: set[int]) -> set[str]:
    """Return the inodes of the sockets that are connected to one of the ports. table: text of /proc/net/tcp or tcp6."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {
        row[9] for row in rows if row[3] == ESTABLISHED and int(row[2].rpartition(":")[2], 16) in remote_ports
    }  # fmt: skip


def open_sockets() -> Iterator[str]:
    """Yield the inode of every socket that a process of this container has open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:  # closed, or another user's
            continue
        if match := re.fullmatch(r"socket:\[(\d+)\]", target):
            yield match[1]


def main() -> int:
    """Return the exit code: 0 healthy, 1 not."""
    wanted = ports(os.environ.get("KRT_NATS_SERVER", ""))
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    connected = set().union(*(connected_sockets(table.read_text(), wanted) for table in tables if table.exists()))
    if connected.isdisjoint(open_sockets()):
        print("no process of this container is connected to NATS")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
