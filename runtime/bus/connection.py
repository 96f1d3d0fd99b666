"""One connection to NATS: reconnects for ever, redacts credentials, and is closed only for good.

Owns the nats-py client and the outbox: `write` only appends, and one task hands the outbox to the client. So every
caller is synchronous, writes of one turn of the loop leave together, and nothing is written while disconnected.
Streams, consumers and messages of a workflow are the business of `topology.py`, `pull.py` and `publish.py`.
"""

import asyncio
import importlib.util
import logging
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.js.client import JetStreamContext

from runtime.bus.cancellation import kept_cancellation
from runtime.bus.credentials import Credentials, read_credentials
from runtime.bus.direct import DirectClient, DirectSubscription, OnArrival, publish_command
from runtime.bus.refusals import describe, is_refusal, remedy
from runtime.errors import AccessError, BusClosedError, BusUnavailableError, ServerError, SettingsError
from runtime.settings import DEFAULT_INBOX_PREFIX, redact

log = logging.getLogger(__name__)

# The oldest server that knows several filter subjects in one consumer, and stream metadata.
SERVER_FLOOR = (2, 10, 0)
# Seconds that the first connect may take in all, and after which a line says what it waits for.
CONNECT_LIMIT_S = 30.0
CONNECT_TRY_S = 5.0
# Refused reconnects in a row, half a second apart, after which the connection is given up: while a cluster gets new
# credentials, its servers refuse for a moment.
MAX_REFUSALS = 20
# Seconds between pings; two missed ones end the connection. nats-py's own 120 s would hide a frozen server.
PING_INTERVAL_S = 10
# Bytes that the client holds back at most; more than the publisher's in-flight window.
PENDING_BYTES = 64 * 1024 * 1024

Listener = Callable[[], None]
# Bytes that are handed to the client at once.
BATCH_BYTES = 1024 * 1024


class Connection:
    """A live connection; make it with `await Connection.open(...)`."""

    def __init__(
        self,
        name: str,
        request_timeout_s: float,
        credentials: Credentials | None = None,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
    ) -> None:
        self.name = name
        self.request_timeout_s = request_timeout_s
        self._credentials = credentials or Credentials()
        self._inbox_prefix = self._credentials.inbox_prefix or inbox_prefix
        # Times in a row that a server did not let us in; and what was forbidden last, with the number of times.
        self._refusals = 0
        self._patience = 1
        self.violation = ""
        self.violations = 0
        self.client = DirectClient()
        self.closed = asyncio.Event()
        self.last_error: Exception | None = None
        # Reply subject and command of each message that has not been handed to the client.
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._wake: asyncio.Future[None] | None = None
        # What `flush` waits for while the outbox is not empty.
        self._drained: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._on_disconnect: list[Listener] = []
        self._on_reconnect: list[Listener] = []
        self._online_since_s = 0.0
        # Told what the server has forbidden, as it says so.
        self.on_violation: Callable[[str], None] | None = None
        self._closing = False
        # Largest message that the server takes, headers included; it may change with a reconnect.
        self.max_payload_bytes = 0

    @classmethod
    async def open(
        cls,
        servers: list[str],
        *,
        name: str,
        credentials: Path | None = None,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
        request_timeout_s: float = 5.0,
        limit_s: float = CONNECT_LIMIT_S,
    ) -> "Connection":
        """Connect within `limit_s`. credentials: see `credentials.py`. inbox_prefix: of every subject for answers.

        Raises SettingsError for addresses or the credentials folder, BusUnavailableError, AccessError when every server
        refuses us, ServerError for one below the floor.
        """
        _check_schemes(servers)
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + limit_s
        read = read_credentials(credentials) if credentials is not None else None
        where = ", ".join(redact(server) for server in servers)
        while True:
            connection = cls(name, request_timeout_s, read, inbox_prefix)
            try:
                async with asyncio.timeout(min(CONNECT_TRY_S, limit_s)):
                    await connection._connect(servers)
                break
            except _RefusedError as error:
                await connection._close_client()
                refusal = error.__cause__
                what_to_do = remedy(refusal, has_tls=read is not None and read.tls is not None)
                raise AccessError(f"NATS at {where} does not let us in: {describe(refusal)}; {what_to_do}") from refusal
            except (TimeoutError, OSError, nats.errors.Error) as error:
                await connection._close_client()
                cause = connection.last_error or error
                if loop.time() >= give_up_s:
                    raise BusUnavailableError(
                        f"no NATS server answers at {where}: {describe(cause)}; start it, or correct KRT_NATS_SERVER"
                    ) from error
                log.warning("waiting for NATS at %s: %s", where, describe(cause), extra={"action": "wait-nats"})
        connection._check_server()
        connection.max_payload_bytes = int(connection.client.max_payload)
        connection._online_since_s = loop.time()
        connection._sender = loop.create_task(connection._send(), name=f"{name} outbox")
        connection._sender.add_done_callback(connection._on_sender_end)
        return connection

    @property
    def is_connected(self) -> bool:
        return bool(self.client.is_connected)

    @property
    def online_s(self) -> float:
        """Seconds since the connection was made, or made again; 0 while it is lost."""
        return asyncio.get_running_loop().time() - self._online_since_s if self.is_connected else 0.0

    @property
    def jetstream(self) -> JetStreamContext:
        """nats-py's JetStream, for administration only; messages of a workflow never go through it."""
        return JetStreamContext(self.client, timeout=self.request_timeout_s)

    @property
    def server_count(self) -> int:
        """Addresses of the cluster's servers that are there: one each, unless a server listens on several."""
        return self.client.server_count

    def new_inbox(self) -> str:
        return f"{self._inbox_prefix}.{secrets.token_hex(11)}"

    def listen(self, *, on_disconnect: Listener, on_reconnect: Listener) -> Callable[[], None]:
        """Call back at every disconnect and reconnect; returns the function that ends it."""
        self._on_disconnect.append(on_disconnect)
        self._on_reconnect.append(on_reconnect)

        def stop() -> None:
            self._on_disconnect.remove(on_disconnect)
            self._on_reconnect.remove(on_reconnect)

        return stop

    def write(self, subject: str, data: bytes, reply: str = "", block: bytes = b"") -> None:
        """Append one message to the outbox; it leaves in the next turn of the loop, or after a reconnect.

        block: headers as `direct.header_block` makes them. A message that is larger than the server takes is dropped
        and logged: it would cost the connection.
        """
        if len(data) + len(block) > self.max_payload_bytes:
            log.error(
                "%d bytes for %s are dropped, NATS takes %d", len(data), subject, self.max_payload_bytes,
                extra={"action": "unsent"},
            )  # fmt: skip
            return
        self._outbox.append((reply, publish_command(subject, data, reply, block)))
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def discard(self, reply_prefix: str) -> None:
        """Drop outbox entries with such a reply; their owner writes them again after the reconnect."""
        self._outbox = deque(entry for entry in self._outbox if not entry[0].startswith(reply_prefix))

    async def subscribe(self, subject: str, callback: OnArrival, queue: str = "") -> DirectSubscription:
        """Subscribe; the callback only appends or schedules. Known to the server when this returns.

        Raises AccessError when the server forbids it, and what `flush` raises.
        """
        violations = self.violations
        subscription = await self.client.subscribe_direct(subject, callback, queue)
        await self.flush()
        # nats-py hands on the server's errors in lower case.
        if self.violations > violations and f'"{subject.lower()}"' in self.violation:
            raise AccessError(f"NATS forbids a subscription: {self.violation}; see `krt permissions`")
        return subscription

    async def flush(self) -> None:
        """Wait until the server has seen everything written so far. Raises BusUnavailableError, BusClosedError."""
        try:
            async with asyncio.timeout(self.request_timeout_s):
                while self._outbox:
                    self._drained = self._drained or asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._drained)
            with kept_cancellation():
                await self.client.flush(timeout=self.request_timeout_s)
        except nats.errors.ConnectionClosedError as error:
            raise BusClosedError("the connection to NATS is closed") from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusUnavailableError(f"NATS did not answer a flush: {describe(error)}") from error

    async def move(self) -> None:
        """Leave this server, which does not answer, for one of its cluster; where there is no other, stay."""
        if self.server_count > 1:
            await self.client.force_reconnect()

    async def close(self) -> None:
        """Write out what can be written, then close."""
        self._closing = True
        if self.is_connected:
            try:
                await self.flush()
            except (BusUnavailableError, BusClosedError) as error:
                log.warning("closing NATS with unsent messages: %s", error)
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        await self._close_client()

    async def _close_client(self) -> None:
        try:
            await self.client.close()
        except (RuntimeError, ConnectionError) as error:
            # While NATS is away, nats-py writes what it still holds into the closed transport, which refuses that:
            # uvloop's with a RuntimeError, asyncio's own with a ConnectionResetError.
            log.debug("closing NATS while it is away: %s", error)
            self.closed.set()

    # --- the client's side ---

    async def _connect(self, servers: list[str]) -> None:
        credentials = self._credentials
        self._patience = len(servers)
        asked = any(each.startswith(("tls:", "wss:")) for each in servers)
        self.client.requires_tls = asked or credentials.tls is not None
        await self.client.connect(
            servers=servers,
            name=self.name,
            tls=credentials.tls,
            user_credentials=credentials.creds_file or None,
            nkeys_seed_str=credentials.seed or None,
            inbox_prefix=self._inbox_prefix,
            **_user(credentials, servers),
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # seconds
            ping_interval=PING_INTERVAL_S,
            pending_size=PENDING_BYTES,
            skip_subject_validation=True,  # every subject is made in spec/names.py and checked there
        )

    def _check_server(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor, version.patch) < SERVER_FLOOR:
            floor = ".".join(map(str, SERVER_FLOOR))
            raise ServerError(
                f"the NATS server is {version}, below {floor}, and would misread our consumers; update it"
            )

    async def _send(self) -> None:
        """Hand the outbox to the client, in order, whenever the connection is up."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._outbox or not self.client.is_connected:
                self._wake = loop.create_future()
                await self._wake
            while self._outbox and self.client.is_connected:
                await self.client.write(self._next_batch())
            if self._drained is not None and not self._outbox:
                self._drained.set_result(None)
                self._drained = None

    def _next_batch(self) -> bytes:
        """Take commands out of the outbox, about `BATCH_BYTES` of them."""
        batch: list[bytes] = []
        size = 0
        while self._outbox and size < BATCH_BYTES:
            command = self._outbox.popleft()[1]
            batch.append(command)
            size += len(command)
        return b"".join(batch)

    def _on_sender_end(self, sender: asyncio.Task[None]) -> None:
        """A connection that sends nothing any more is as good as closed: whoever lives by it has to end."""
        if not sender.cancelled() and (error := sender.exception()) is not None:
            log.error("nothing is sent to NATS any more", exc_info=error, extra={"action": "died"})
            self.closed.set()

    async def _error(self, error: Exception) -> None:
        """Raises _RefusedError, out of the client's `connect`, once no server is left that might let us in."""
        text = describe(error)
        repeated = self.last_error is not None and describe(self.last_error) == text
        self.last_error = error
        if is_refusal(error) and not self.client.is_connected:
            await self.client.drop_transport()
            self._note_refusal(error)
        if "permissions violation" in text.lower():
            self.violation = text
            self.violations += 1
            log.error("NATS forbids what this process needs: %s", text, extra={"action": "nats-refused"})
            if self.on_violation is not None:
                self.on_violation(text)
        elif self._sender is not None:
            is_news = not repeated and not self._is_known_absence(error)
            log.log(logging.WARNING if is_news else logging.DEBUG, "NATS: %s", text, extra={"action": "nats-error"})

    def _is_known_absence(self, error: Exception) -> bool:
        """Say whether an error tells no more than "NATS is away", which every process says for itself already.

        A name that is not known any more, and a certificate that has expired, do.
        """
        if isinstance(error, nats.errors.UnexpectedEOF):  # the end itself
            return True
        is_about_the_way = isinstance(error, OSError) and not isinstance(error, socket.gaierror | ssl.SSLError)
        return is_about_the_way and not self.client.is_connected

    def _note_refusal(self, error: Exception) -> None:
        self._refusals += 1
        if self._sender is None and self._refusals >= self._patience:
            raise _RefusedError from error
        if self._refusals == MAX_REFUSALS:
            log.error("NATS does not let us in any more: %s", describe(error), extra={"action": "nats-refused"})
            self.closed.set()

    async def _disconnected(self) -> None:
        if self._closing or self._sender is None:
            return
        log.warning("NATS is away; what runs goes on", extra={"action": "disconnect"})
        for listener in list(self._on_disconnect):
            listener()

    async def _reconnected(self) -> None:
        log.info("NATS is back", extra={"action": "reconnect"})
        self.last_error = None
        self._refusals = 0
        self.max_payload_bytes = int(self.client.max_payload)
        self._online_since_s = asyncio.get_running_loop().time()
        for listener in list(self._on_reconnect):
            listener()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _closed(self) -> None:
        if not self._closing and self._sender is not None:
            log.error("NATS has closed the connection for good: %s", describe(self.last_error))
        self.closed.set()


class _RefusedError(Exception):
    """Every server has refused us; the cause says why."""


def _check_schemes(servers: list[str]) -> None:
    """Raise SettingsError for WebSockets among other connections, or without the package that they need."""
    over_websocket = [server for server in servers if server.startswith(("ws://", "wss://"))]
    if over_websocket and len(over_websocket) < len(servers):
        raise SettingsError(["KRT_NATS_SERVER: the servers of one cluster are all ws:// or wss://, or none of them is"])
    if over_websocket and importlib.util.find_spec("aiohttp") is None:
        raise SettingsError([f"{redact(over_websocket[0])} needs aiohttp: pip install 'krt-runtime[websocket]'"])


def _user(credentials: Credentials, servers: list[str]) -> dict[str, Any]:
    """Return user and password for the client: of the folder, else of the first address.

    Given apart from the addresses, they hold for the other servers of the cluster too, which are found later.
    """
    if credentials.user:
        return {"user": credentials.user, "password": credentials.password}
    first = urlsplit(servers[0] if "://" in servers[0] else f"nats://{servers[0]}")
    if first.username and first.password:
        return {"user": unquote(first.username), "password": unquote(first.password)}
    return {}
