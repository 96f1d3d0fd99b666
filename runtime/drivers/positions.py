"""How far sources are, kept in KV, so that a restart goes on where it stopped, on another machine too.

A position is written only when everything before it is done. Behind a crash, what was sent and not done comes again
under the same request ids, and what was done in the last `WRITE_EVERY_S` before it.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import orjson

from runtime.bus.base import Bus, KeyValue
from runtime.clock import Clock
from runtime.drivers.schedule import Backoff
from runtime.errors import BusError, BusUnavailableError, NotFoundError
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds between two writes of one source's position: at most so much is repeated beyond what was in flight.
WRITE_EVERY_S = 0.1
# Seconds that the last write of a driver that ends may take.
LAST_WRITE_S = 1.0
# Hex digits of a position in a request id.
ID_DIGITS = 24


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one source. position: None before its first item was done. written_ns: when, unix time."""

    position: Any
    written_ns: int


class _Place:
    """One item among those of its source."""

    __slots__ = ("is_done", "position")

    def __init__(self, position: Any) -> None:
        self.position = position
        self.is_done = False


def request_id(driver: str, source: str, position: Any) -> str:
    """Return the id of the request that an item at this position makes: the same after every restart."""
    digest = hashlib.sha256(orjson.dumps(position, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{request_prefix(driver, source)}{digest[:ID_DIGITS]}"


def request_prefix(driver: str, source: str) -> str:
    """Return what the ids of all requests of one source begin with, if its items have positions."""
    return f"{driver}.{source}."


class Position:
    """The position of one source. `run` writes it, until it is cancelled; then `flush`.

    is_begun: whether something is kept, so that a later run knows since when requests may have been sent.
    """

    def __init__(self, bus: Bus, clock: Clock, stream: str, driver: str, source: str) -> None:
        self._bus = bus
        self._clock = clock
        self._bucket_name = names.positions_bucket(stream)
        self._key = names.position_key(driver, source)
        self._bucket: KeyValue | None = None
        # Items that are not done, and those behind the first of them, in the order of reading.
        self._places: deque[_Place] = deque()
        self._latest: Any = None
        self._is_written = True
        self._moved = asyncio.Event()
        self.is_begun = False

    async def load(self) -> Kept | None:
        """Return what an earlier run has kept. Raises BusUnavailableError."""
        try:
            entry = await (await self._open()).get(self._key)
        except NotFoundError:
            return None
        found = orjson.loads(entry.value)
        self.is_begun = True
        return Kept(found["position"], found["written_ns"])

    async def mark_start(self) -> None:
        """Keep that there is a source, before its first request is sent; waits for NATS as long as that takes."""
        self._is_written = False
        backoff = Backoff()
        while not self.is_begun:
            try:
                await self._write()
                self.is_begun = True
            except BusUnavailableError as error:
                log.warning("the position %s is not written: %s", self._key, error, extra={"action": "position"})
                await self._clock.sleep(backoff.next_s())

    def begin(self, position: Any) -> _Place:
        """Note that an item was read; to be called in the order of reading."""
        place = _Place(position)
        self._places.append(place)
        return place

    def finish(self, place: _Place) -> None:
        """Note that the item is done. The position moves up to the first item that is not."""
        place.is_done = True
        while self._places and self._places[0].is_done:
            position = self._places.popleft().position
            if position is not None:
                self._latest, self._is_written = position, False
                self._moved.set()

    async def run(self) -> None:
        """Write the position whenever it has moved, for ever."""
        backoff = Backoff()
        while True:
            await self._moved.wait()
            try:
                await self._write()
            except BusUnavailableError as error:
                log.warning("the position %s is not written: %s", self._key, error, extra={"action": "position"})
                await self._clock.sleep(backoff.next_s())
            else:
                backoff.reset()
                await self._clock.sleep(WRITE_EVERY_S)

    async def flush(self) -> None:
        """Write the position before the driver ends; if that fails, a few items come again."""
        with contextlib.suppress(BusError, TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self._write()

    async def _write(self) -> None:
        if self._is_written:
            return
        latest = self._latest
        value = orjson.dumps({"position": latest, "written_ns": self._clock.time_ns()})
        self._moved.clear()
        try:
            await (await self._open()).put(self._key, value)
        except BusError:
            self._moved.set()
            raise
        self._is_written = latest is self._latest

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            self._bucket = await self._bus.key_value(self._bucket_name, create=True)
        return self._bucket
