"""Presence: which processes are alive, told by heartbeats into one bucket whose entries expire.

    Heartbeat ──put every 2 s──▶ bucket, 6 s ──watch──▶ PresenceSet, which has timers of its own

Every process writes its own record and no other. A beat is one small write every two seconds on a task of its own: no
message waits for it, and nothing that is wrong with it can fail one.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Self

import orjson

from runtime.bus.base import Bus, Entry, KeyValue, Subscription
from runtime.clock import Clock, TimerHandle
from runtime.errors import BusError, DecodeError
from runtime.version import __version__

log = logging.getLogger(__name__)

# Seconds between two beats, and from the last one until the process counts as gone: two lost beats are forgiven.
BEAT_S = 2.0
EXPIRY_S = 6.0
FORGIVEN_BEATS = 2
# Seconds that taking leave may hold up the end of a process; without it the record expires.
WITHDRAW_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """One live process, as it describes itself.

    kind: node, writer, manager and so on; name: which one of its kind. instance: one start of it, opaque. version: of
    the runtime. started_ms: unix time. endpoints: subjects that it answers. counters: totals since its start.
    metadata: what only its kind has.
    """

    kind: str
    name: str
    instance: str
    version: str
    host: str
    pid: int
    started_ms: int
    workflow: str = ""
    replica: int = 0
    endpoints: tuple[str, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_this_process(cls, kind: str, name: str, *, workflow: str = "", replica: int = 0) -> Self:
        """Return a record with a new instance; `dataclasses.replace` fills in what changes."""
        return cls(
            kind=kind,
            name=name,
            instance=secrets.token_hex(4),
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_ms=time.time_ns() // 1_000_000,
            workflow=workflow,
            replica=replica,
        )

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a record; fields that this version does not know are left out. Raises DecodeError."""
        try:
            values: dict[str, Any] = orjson.loads(data)
            known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
            return cls(**{**known, "endpoints": tuple(known.get("endpoints", ()))})
        except (ValueError, TypeError) as error:
            raise DecodeError(f"this is no service record: {error}", reason="payload") from error


class Heartbeat:
    """Keeps a process present inside an `async with` block.

    record: called for every beat, on the loop, and cheap.
    """

    def __init__(self, bus: Bus, bucket: str, key: str, record: Callable[[], ServiceRecord], clock: Clock) -> None:
        self._bus = bus
        self._bucket_name = bucket
        self._key = key
        self._record = record
        self._clock = clock
        self._bucket: KeyValue | None = None
        self._lost_beats = 0  # in a row
        self._due = asyncio.Event()
        self._leaving = False
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat_on(), name=f"heartbeat {self._key}")
        self._beating.add_done_callback(_on_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        # Beside the cancellation, which is lost when it meets the answer to a write: wait_for of Python 3.11 drops it.
        self._leaving = True
        self._due.set()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        await self._withdraw()

    async def beat(self) -> None:
        """Write the record now, for a change that nobody should wait for. Raises BusError."""
        try:
            self._bucket = self._bucket or await self._bus.expiring_key_value(self._bucket_name, ttl_s=EXPIRY_S)
            await self._bucket.put(self._key, self._record().encode())
        except BusError as error:
            self._bucket = None  # it may be gone with its server; then the next beat makes it anew
            self._report(error)
            raise
        self._lost_beats = 0

    def beat_soon(self) -> None:
        """Write the record as soon as may be, for a change that nobody waits for; several calls are one beat."""
        self._due.set()

    async def _beat_on(self) -> None:
        while not self._leaving:
            self._due.clear()
            try:
                await self.beat()
            except BusError:  # told; the next beat tries again
                pass
            timer = self._clock.call_later(BEAT_S, self._due.set)
            try:
                await self._due.wait()
            finally:
                timer.cancel()

    def _report(self, error: BusError) -> None:
        """Log a lost beat, for somebody to see once in an outage that makes the process count as gone."""
        is_away = not self._bus.online_s  # which its connection has told
        self._lost_beats += not is_away
        is_news = not is_away and self._lost_beats == FORGIVEN_BEATS + 1
        level = logging.WARNING if is_news else logging.DEBUG
        log.log(level, "this process cannot announce itself: %s", error, extra={"action": "presence"})

    async def _withdraw(self) -> None:
        if self._bucket is None:
            return
        try:
            async with asyncio.timeout(WITHDRAW_S):
                await self._bucket.delete(self._key)
        except (BusError, TimeoutError) as error:
            log.debug("the record of this process has to expire: %s", error)


# Key and record of a process that has come or has told anew about itself; None for one that is gone.
OnChange = Callable[[str, ServiceRecord | None], None]


class PresenceSet:
    """The live processes of some keys: always current, from a watch and a timer for each record.

    A process that ends in order is gone at once, one that dies `EXPIRY_S` after its last beat; one that died shortly
    before `open` counts for as long again. While NATS is away everybody expires, and comes back with its next beat.
    """

    def __init__(self, clock: Clock, on_change: OnChange | None = None) -> None:
        self.records: dict[str, ServiceRecord] = {}
        self._clock = clock
        self._on_change = on_change
        self._timers: dict[str, TimerHandle] = {}
        self._watch: Subscription | None = None

    @classmethod
    async def open(cls, bus: Bus, bucket: str, keys: str, clock: Clock, *, on_change: OnChange | None = None) -> Self:
        """Return the set with everybody who is there. keys: as in `KeyValue.watch`.

        on_change: called on the loop, for every beat as well. Raises BusError.
        """
        opened = cls(clock, on_change)
        entries = await bus.expiring_key_value(bucket, ttl_s=EXPIRY_S)
        opened._watch = await entries.watch(keys, opened._on_entry)
        return opened

    async def close(self) -> None:
        """Follow nobody any more; repeating it is fine."""
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.unsubscribe()
        for timer in self._timers.values():
            timer.cancel()

    def _on_entry(self, key: str, entry: Entry | None) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if entry is None:
            self._remove(key)
            return
        try:
            record = ServiceRecord.decode(entry.value)
        except DecodeError as error:
            log.warning("key %s of the presence bucket is passed over: %s", key, error, extra={"action": "presence"})
            return
        self.records[key] = record
        self._timers[key] = self._clock.call_later(EXPIRY_S, partial(self._remove, key))
        if self._on_change is not None:
            self._on_change(key, record)

    def _remove(self, key: str) -> None:
        if self.records.pop(key, None) is not None and self._on_change is not None:
            self._on_change(key, None)


def _on_end(beating: asyncio.Task[None]) -> None:
    if not beating.cancelled() and (error := beating.exception()) is not None:
        log.error(
            "%s has died; the process goes on unseen", beating.get_name(), exc_info=error, extra={"action": "died"}
        )
