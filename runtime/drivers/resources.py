"""What a driver is given: bound ports, and the list of services that it says are reachable.

A port is bound before `run` and stays so until the driver has stopped, so that nobody else can take it. It is bound
with SO_REUSEADDR and does not listen until it is asked for: a server that opens the port by its number, and sets that
option as nearly all do, gets it too.
"""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from runtime.drivers.base import DriverResourcesRequest, Service
from runtime.errors import DriverStartError

# Connections that wait to be accepted; the kernel cuts it to its own limit.
BACKLOG = 1024
# State of a listening socket in /proc/net/tcp.
_LISTEN = "0A"


class Resources:
    """See `base.DriverResources`; `close` frees everything."""

    def __init__(self, listen: str, address: str, on_change: Callable[[], None]) -> None:
        """Hold nothing yet; use `bind`. address: at which others reach the ports. on_change: called on the loop."""
        self.listen = listen
        self._address = address
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, socket.socket] = {}
        self._listening: set[str] = set()
        self._services: dict[str, Service] = {}
        self._lock = threading.Lock()
        self.ports: Mapping[str, int] = {}

    @classmethod
    def bind(
        cls,
        request: DriverResourcesRequest,
        configured: Mapping[str, int],
        *,
        listen: str,
        address: str,
        on_change: Callable[[], None],
    ) -> Self:
        """Bind every requested port: the configured one, or with 0 or nothing configured a free one.

        Raises DriverStartError naming the port, and its owner where that is known, or a configured name that the driver
        does not ask for.
        """
        resources = cls(listen, address, on_change)
        try:
            if unknown := sorted(set(configured) - set(request.ports)):
                asked = ", ".join(request.ports) or "none"
                raise DriverStartError(f"the driver asks for no port {', '.join(unknown)}; it asks for: {asked}")
            wanted = request.ports if isinstance(request.ports, Mapping) else {}
            for name in request.ports:
                resources._sockets[name] = _bound(name, listen, configured.get(name, wanted.get(name, 0)))
        except DriverStartError:
            resources.close()
            raise
        resources.ports = {name: bound.getsockname()[1] for name, bound in resources._sockets.items()}
        return resources

    @property
    def services(self) -> list[Service]:
        """What is reachable now, in the order of the announcements."""
        with self._lock:
            return list(self._services.values())

    def socket(self, name: str) -> socket.socket:
        bound = self._sockets[name]
        with self._lock:
            if name not in self._listening:
                bound.listen(BACKLOG)
                self._listening.add(name)
        return bound

    def announce(self, name: str, *, protocol: str = "tcp") -> None:
        service = Service(name=name, protocol=protocol, address=self._address, port=self.ports[name])
        with self._lock:
            self._services[name] = service
        self._tell()

    def withdraw(self, name: str) -> None:
        with self._lock:
            gone = self._services.pop(name, None)
        if gone is not None:
            self._tell()

    def close(self) -> None:
        """Withdraw every service and free the ports. Repeating it is fine."""
        for service in self.services:
            self.withdraw(service.name)
        for bound in self._sockets.values():
            bound.close()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_change)
        except RuntimeError:  # the loop has ended before a thread that ignored its stop; nobody is left to be told
            pass


def _bound(name: str, host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise DriverStartError(f'port {port} of "{name}" on {host} {_reason(error, port)}') from error
    return made


def _reason(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        owner = owner_of(port)
        return f"is taken{f' by {owner}' if owner else ''}; free it, or configure another one"
    if error.errno == errno.EACCES:
        return "is not permitted to this user; configure one from 1024 on, or allow it"
    return f"cannot be bound: {error.strerror or error}"


def owner_of(port: int) -> str:
    """Return who listens on a TCP port, as `process 17 (name)`; "" where the system does not tell us."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(os.readlink(entry) in inodes for entry in (folder / "fd").iterdir()):
                return f"process {folder.name} ({(folder / 'comm').read_text().strip()})"
        except OSError:  # another user's process, or one that has ended
            continue
    return ""


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                found.append(columns[9])
    return found
