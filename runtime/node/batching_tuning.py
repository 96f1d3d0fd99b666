"""Batches retuned while the node runs: `batch.max` and `batch.wait` in its scope of the configuration."""

import asyncio
import logging
import math

from runtime.clock import Clock
from runtime.durations import DURATION, SECONDS
from runtime.errors import KrtError, NotFoundError
from runtime.node.batching_gather import Limits
from runtime.node.configuration import Configuration, Scope

log = logging.getLogger(__name__)

MAX_KEY, WAIT_KEY = "batch.max", "batch.wait"
# Seconds between two looks, while there are batches.
LOOK_S = 5.0


class Tuning:
    """Keeps the limits as the configuration has them; a key that is missing, or wrong, leaves what the file says."""

    def __init__(self, limits: Limits, configuration: Configuration, clock: Clock) -> None:
        self._limits = limits
        self._configuration = configuration
        self._clock = clock
        self._next_s = -math.inf
        self._reading: asyncio.Task[None] | None = None
        # What was said to be wrong, so that it is said once.
        self._refused: dict[str, str] = {}

    def look(self) -> None:
        """Read anew if the last time is long ago; what was read holds for later batches. Called with every batch."""
        now_s = self._clock.monotonic()
        if now_s >= self._next_s and self._reading is None:
            self._next_s = now_s + LOOK_S
            self._reading = asyncio.create_task(self.read(), name="batch tuning")
            self._reading.add_done_callback(self._on_read)

    def close(self) -> None:
        self._next_s = math.inf
        if self._reading is not None:
            self._reading.cancel()

    async def read(self) -> None:
        """Read both values. Raises nothing: while the bus is away everything stays as it is."""
        spec, limits = self._limits.spec, self._limits
        try:
            most, wait = await self._value(MAX_KEY), await self._value(WAIT_KEY)
        except KrtError as error:
            log.debug("the limits of batches could not be read: %s", error)
            return
        tuned_max = self._max_messages(most) if most else spec.max_messages
        tuned_wait_s = self._wait_s(wait) if wait else spec.wait_s
        if (tuned_max, tuned_wait_s) != (limits.max_messages, limits.wait_s):
            limits.max_messages, limits.wait_s = tuned_max, tuned_wait_s
            log.info(
                "batches have up to %d messages now, and wait %g ms", tuned_max, tuned_wait_s * 1000,
                extra={"action": "tuned"},
            )  # fmt: skip

    def _on_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batches cannot be retuned any more: %s", error, exc_info=error)
            self._next_s = math.inf

    async def _value(self, key: str) -> str:
        try:
            return await self._configuration.get(key, Scope.NODE)
        except NotFoundError:
            return ""

    def _max_messages(self, text: str) -> int:
        most = self._limits.spec.max_messages
        if text.isdecimal() and 1 <= int(text) <= most:
            return int(text)
        self._refuse(MAX_KEY, text, f"a whole number from 1 to {most}, the file's own 'max'")
        return most

    def _wait_s(self, text: str) -> float:
        match = DURATION.fullmatch(text)
        if match is not None:
            return int(match[1]) * SECONDS[match[2]]
        self._refuse(WAIT_KEY, text, "a duration such as 5ms")
        return self._limits.spec.wait_s

    def _refuse(self, key: str, text: str, expected: str) -> None:
        if self._refused.get(key) != text:
            self._refused[key] = text
            log.warning(
                "'%s' of the configuration is %r; give %s", key, text[:80], expected, extra={"action": "refused"}
            )
