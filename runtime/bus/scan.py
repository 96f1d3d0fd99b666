"""A scan on NATS: a temporary consumer without acks, which is asked for one page at a time.

The consumer lives in the server's memory and ends by itself when nobody asks. Whatever goes wrong with it (a lost
message, a restart, its end) is answered in one way: a new one is made behind the last message that was read.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import nats.errors

from runtime.bus.base import Headers
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectSubscription
from runtime.bus.stored import StoredMessage
from runtime.bus.topology import Topology
from runtime.errors import BusError, BusUnavailableError

# A page: so many messages at most, and so many bytes, for a page of the largest messages would fill the memory.
PAGE_MESSAGES = 500
PAGE_BYTES = 8 * 1024 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Consumers with which one page is tried.
TRIES = 3


class NatsScan:
    """See `bus.stored.Scan`; made by `open`."""

    def __init__(self, connection: Connection, topology: Topology, stream: str, subjects: Sequence[str]) -> None:
        self._connection = connection
        self._topology = topology
        self._stream = stream
        self._subjects = tuple(subjects)
        # Where the next consumer begins: at a time before the first message came, behind the last message after it.
        self._since: datetime | None = None
        self._next_sequence = 1
        self._left = 0
        # The temporary consumer, "" for none, and how many messages it has delivered.
        self._consumer = ""
        self._delivered = 0
        self._subscription: DirectSubscription | None = None
        self._inbox = ""
        # The open request and how many messages it asks for.
        self._request = 0
        self._batch = 0
        self._arrived: list[StoredMessage] = []
        # What `read` waits for: the end of the page, or the status that ended it.
        self._end: asyncio.Future[str] | None = None

    @classmethod
    async def open(
        cls,
        connection: Connection,
        topology: Topology,
        stream: str,
        subjects: Sequence[str],
        first_sequence: int,
        since_ns: int | None,
    ) -> "NatsScan":
        """Make the consumer; the arguments are those of `Bus.scan`. Raises NotFoundError, BusUnavailableError."""
        scan = cls(connection, topology, stream, subjects)
        scan._next_sequence = first_sequence
        scan._since = None if since_ns is None else _EPOCH + timedelta(microseconds=since_ns // 1000)
        await scan._make_consumer()
        return scan

    @property
    def left(self) -> int:
        return self._left

    async def read(self, *, wait_s: float = 0.0) -> list[StoredMessage]:
        page = await self._page(b'"no_wait":true', PAGE_MESSAGES, 0.0)
        if not page and wait_s > 0:
            page = await self._page(b'"expires":%d' % round(wait_s * 1e9), 1, wait_s)
        return page

    async def close(self) -> None:
        await self._drop_consumer()
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            try:
                await subscription.drain()
            except (nats.errors.Error, TimeoutError, OSError):  # the connection is away, and the subscription with it
                return

    # --- a page ---

    async def _page(self, how: bytes, batch: int, wait_s: float) -> list[StoredMessage]:
        for _ in range(TRIES):
            if not self._consumer:
                await self._make_consumer()
            status = await self._ask(how, batch, wait_s)
            page, self._arrived = self._arrived, []
            if status in ("", "404", "408"):
                return page
            # Something is amiss with the consumer: what came is in order and complete, the rest is for the next one.
            await self._drop_consumer()
            if page:
                return page
        raise BusUnavailableError(f"stream {self._stream} cannot be read: the last answer was {status}")

    async def _ask(self, how: bytes, batch: int, wait_s: float) -> str:
        """Ask for a page and wait for its end; returns the status that ended it, "" when the page is full."""
        self._request += 1
        self._batch = batch
        self._end = asyncio.get_running_loop().create_future()
        max_bytes = max(PAGE_BYTES, 2 * self._connection.max_payload_bytes)
        body = b'{"batch":%d,"max_bytes":%d,%s}' % (batch, max_bytes, how)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        self._connection.write(subject, body, f"{self._inbox}.{self._request}")
        try:
            async with asyncio.timeout(wait_s + self._connection.request_timeout_s):
                return await self._end
        except TimeoutError as error:
            # What has arrived stays for the next page, which a new consumer goes on with.
            self._consumer = ""
            raise BusUnavailableError(f"stream {self._stream} is silent; is NATS away?") from error

    def _on_arrival(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        if subject.startswith(self._inbox):
            if subject.endswith(f".{self._request}"):
                self._finish((headers or {}).get("Status", "")[:3])
            return
        # As in `pull._delivery`: 9 tokens, or 12 with a domain, an account and a random token.
        tokens = reply.split(".")
        shift = 0 if len(tokens) < 11 else 2
        if tokens[3 + shift] != self._consumer:
            return
        sequence, number, time_ns, left = (int(token) for token in tokens[5 + shift : 9 + shift])
        if number != self._delivered + 1:  # one was lost with the connection
            self._finish("lost")
            return
        self._delivered = number
        self._since, self._next_sequence = None, sequence + 1
        self._left = left
        self._arrived.append(StoredMessage(subject, sequence, data, dict(headers or {}), time_ns))
        if left == 0 or len(self._arrived) >= self._batch:
            self._finish("")

    def _finish(self, status: str) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(status)

    # --- the consumer ---

    async def _make_consumer(self) -> None:
        if self._subscription is None:
            self._inbox = self._connection.new_inbox()
            self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_arrival)
        self._consumer, self._left = await self._topology.add_temporary_consumer(
            self._stream, self._subjects, first_sequence=self._next_sequence, since=self._since
        )
        self._delivered = 0

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, ""
        if not consumer:
            return
        try:
            await self._topology.delete_consumer(self._stream, consumer)
        except BusError:  # gone already, or soon by itself
            return
