"""Watching a bucket on NATS: a push consumer of our own, made anew whenever it may have missed something.

nats-py's own watcher (2.16) blocks beyond 256 entries and was silent for 20 s after a restart of the server. This one
hears the server's heartbeats, and begins again with everything that is there after a reconnect, after silence, and when
its consumer or its bucket was gone.
"""

import asyncio
import contextlib
import logging

import nats.errors
from nats.js import api

from runtime.bus.base import Entry, Headers, OnChange
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectSubscription
from runtime.bus.pull import read_delivery
from runtime.bus.topology import translated
from runtime.errors import BusClosedError, BusError, BusUnavailableError

log = logging.getLogger(__name__)

# Seconds between the server's heartbeats, and without any sign of life until the watch begins again.
HEARTBEAT_S = 1.0
SILENCE_S = 3 * HEARTBEAT_S
# Seconds between two tries to begin again; and tries that nobody has to look at: a bucket that a server had in memory
# is gone with it, and whoever writes to it makes it anew within some seconds.
RETRY_S = 0.5
FORGIVEN_TRIES = 8


class NatsWatch:
    """See `bus.base.KeyValue.watch`; `unsubscribe` ends it."""

    def __init__(self, connection: Connection, bucket: str, keys: str, on_change: OnChange) -> None:
        self._connection = connection
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."
        self._keys = keys
        self._on_change = on_change
        self._inbox = ""
        self._subscription: DirectSubscription | None = None
        self._told_all = asyncio.Event()
        self._stale = asyncio.Event()
        self._heard_s = 0.0
        # Entries so far.
        self._told = 0
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tell everything that is there. Raises NotFoundError, BusUnavailableError, BusClosedError."""
        self._stop_listening = self._connection.listen(on_disconnect=_nothing, on_reconnect=self._stale.set)
        try:
            await self._open()
        except BaseException:  # cancelled too: nobody will call `unsubscribe`
            self._stop_listening()
            await self._leave()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"watch {self._prefix}{self._keys}")
        self._keeper.add_done_callback(_on_end)

    async def unsubscribe(self) -> None:
        self._stop_listening()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._leave()

    async def _open(self) -> None:
        """Subscribe a fresh inbox, and return when everything that is there has been told."""
        await self._leave()
        self._told_all.clear()
        self._stale.clear()
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.subscribe(self._inbox, self._on_message)
        self._heard_s = asyncio.get_running_loop().time()
        async with translated(self._connection):
            info = await self._connection.jetstream.add_consumer(self._stream, self._config())
        delivered = info.delivered.consumer_seq if info.delivered else 0
        if not info.num_pending and not delivered:
            self._told_all.set()
        await self._until_told_all()

    async def _until_told_all(self) -> None:
        """Wait for everything that is there: a large bucket may take long, and only silence is an outage."""
        told = -1
        while not self._told_all.is_set():
            if told == self._told:
                raise BusUnavailableError(f"NATS does not tell what {self._stream} holds")
            told = self._told
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._connection.request_timeout_s):
                    await self._told_all.wait()

    def _config(self) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT,
            deliver_subject=self._inbox,
            ack_policy=api.AckPolicy.NONE,
            filter_subject=f"{self._prefix}{self._keys}",
            idle_heartbeat=HEARTBEAT_S,
            mem_storage=True,
            num_replicas=1,
        )

    def _on_message(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        headers = headers or {}
        if subject == self._inbox:
            if not headers.get("Status", "").startswith("100"):
                self._stale.set()
            return
        self._told += 1
        delivery = read_delivery(subject, reply, data, headers, self._heard_s)
        key = subject.removeprefix(self._prefix)
        removed = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
        self._on_change(key, None if removed else Entry(key, data, delivery.sequence))
        if delivery.pending == 0:
            self._told_all.set()

    async def _keep(self) -> None:
        """Begin again whenever something may have been missed."""
        tries = 0  # in a row
        while True:
            await self._until_stale()
            try:
                await self._open()
                tries = 0
            except BusClosedError:
                return
            except BusError as error:
                is_away = not self._connection.is_connected  # which it has told
                tries += not is_away
                level = logging.WARNING if not is_away and tries == FORGIVEN_TRIES + 1 else logging.DEBUG
                log.log(level, "bucket %s cannot be watched: %s", self._stream, error, extra={"action": "watch"})
                self._stale.set()
                await asyncio.sleep(RETRY_S)

    async def _until_stale(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stale.is_set() and loop.time() - self._heard_s < SILENCE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._heard_s + SILENCE_S):
                    await self._stale.wait()

    async def _leave(self) -> None:
        """End the subscription; the server removes its consumer with it."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(
                nats.errors.Error, OSError
            ):  # the connection is away, and the subscription with it
                await subscription.drain()


def _nothing() -> None:
    return


def _on_end(keeper: asyncio.Task[None]) -> None:
    if not keeper.cancelled() and (error := keeper.exception()) is not None:
        log.error("%s has died", keeper.get_name(), exc_info=error, extra={"action": "died"})
