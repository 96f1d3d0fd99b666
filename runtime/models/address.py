"""Where the NATS server of a model cluster is: from a host and a port, as coordinators are given them, to an address.

A host may carry its scheme (`nats://`, `tls://`, `ws://`, `wss://`). Without one the listener is asked: a NATS server
speaks first on TCP, and a listener for WebSockets waits for a request.
"""

import asyncio
import contextlib
import logging
from urllib.parse import SplitResult, urlsplit

from runtime.errors import BusUnavailableError, InvalidCoordinatorUsageError

log = logging.getLogger(__name__)

SCHEMES = ("nats", "tls", "ws", "wss")
# Seconds in which a NATS server on TCP has sent its INFO; one that has not is taken for a listener for WebSockets.
INFO_TIMEOUT_S = 0.5
INFO = b"INFO "
# Seconds between two tries to reach a listener, and until it is given up.
RETRY_S = 0.25
LIMIT_S = 30.0


async def find_server(host: str, port: int | None = None, *, secure: bool = False, limit_s: float = LIMIT_S) -> str:
    """Return the address of a server; a listener whose scheme is not told is waited for, up to `limit_s`.

    port: None for the scheme's own, which needs a scheme; one inside `host` wins. secure: whether there are
    certificates, so that WebSockets are to have TLS. Raises InvalidCoordinatorUsageError, BusUnavailableError.
    """
    scheme, separator, place = host.strip().rpartition("://")
    if separator and scheme not in SCHEMES:
        raise InvalidCoordinatorUsageError(f"host {host!r} has the scheme {scheme!r}; use one of {', '.join(SCHEMES)}")
    parts = _parts(place, port)
    if separator:
        return parts._replace(scheme=scheme).geturl()
    if not parts.port:
        raise InvalidCoordinatorUsageError(f"host {host!r} has neither a scheme nor a port; give one of them")
    if await _speaks_first(str(parts.hostname), parts.port, limit_s):
        return parts._replace(scheme="nats").geturl()
    return parts._replace(scheme="wss" if secure else "ws").geturl()


def _parts(place: str, port: int | None) -> SplitResult:
    """Return the parts of `user@host:port/path`, all but the host optional; `port` where there is none."""
    if place.count(":") > 1 and not {"[", "@"} & set(place):
        place = f"[{place}]"  # IPv6
    try:
        parts = urlsplit(f"//{place.rstrip('/')}")
        if parts.port is None and port is not None:
            parts = parts._replace(netloc=f"{parts.netloc}:{port}")
        if not parts.hostname or parts.port == 0:
            raise ValueError("there is no host, or no port")
    except ValueError as error:
        host = place.rpartition("@")[2]
        raise InvalidCoordinatorUsageError(f"host {host!r}, port {port} is no address: {error}") from error
    return parts


async def _speaks_first(host: str, port: int, limit_s: float) -> bool:
    """Say whether the listener greets as NATS does. Raises BusUnavailableError when there is none for `limit_s`."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + limit_s
    while True:
        try:
            async with asyncio.timeout_at(give_up_s):
                reader, writer = await asyncio.open_connection(host, port)
            break
        except OSError as error:  # TimeoutError is one
            if loop.time() + RETRY_S >= give_up_s:
                raise BusUnavailableError(
                    f"nothing listens on {host}:{port}: {error}; start the NATS server"
                ) from error
        log.info("waiting for a server on %s:%d", host, port, extra={"action": "wait-nats"})
        await asyncio.sleep(RETRY_S)
    try:
        async with asyncio.timeout(INFO_TIMEOUT_S):
            return await reader.readexactly(len(INFO)) == INFO
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
