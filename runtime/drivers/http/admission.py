"""Whom a driver lets in: refuses at once what could only wait in vain, and says when to come again."""

import asyncio
from collections.abc import Callable

from runtime.clock import Clock
from runtime.drivers.base import RestrictedInferenceProcess
from runtime.drivers.http.answers import RETRY_S, Refusal
from runtime.errors import BusError

# Share of the newest answer in the measured rate.
NEWEST_SHARE = 0.3
# How much of the highest load seen is forgotten with every answer.
LOAD_DECAY = 0.05
# A wait is foretold for up to so many times the load that it was measured under; beyond that nothing is known.
EXTRAPOLATION = 2.0
# Seconds that an answer takes at least: the memory bus answers in the same turn of the loop.
SHORTEST_S = 1e-6
# Seconds that one look at the stream may take, and that what it found holds.
LOOK_S = 1.0


class Admission:
    """Counts the requests in flight, and measures how fast the workflow answers them."""

    def __init__(self, inference: RestrictedInferenceProcess, limit: Callable[[], int], clock: Clock) -> None:
        self.in_flight = 0
        self._inference = inference
        self._limit = limit
        self._clock = clock
        # Answers a second, and requests in flight, of which it is known that the workflow can do them; 0: not yet.
        self._rate = 0.0
        self._load = 0.0
        self._hold: tuple[float, Refusal] | None = None

    def enter(self) -> "Slot":
        """Return the place of one more request; to be used with `with`.

        Raises Refusal (busy) when as many are in flight as may be.
        """
        if self.in_flight >= self._limit():
            detail = f"{self.in_flight} requests are in flight, as many as may be"
            raise Refusal("busy", detail, retry_after_s=1 / self._rate if self._rate else RETRY_S)
        self.in_flight += 1
        return Slot(self)

    async def admit(self, slot: "Slot", timeout_s: float) -> None:
        """Let a request with a slot be sent that may take `timeout_s`.

        Raises Refusal with the time to wait: `busy` when the wait is expected to be longer than `timeout_s`;
        `unavailable` when the stream is full, and when NATS is away.
        """
        if self._inference.held:
            raise await self._why_held()
        wait_s = self.expected_wait_s()
        # Without another request in flight it is let in all the same: the measurement may be of yesterday.
        if self.in_flight > 1 and wait_s > timeout_s:
            detail = f"an answer is expected in {wait_s:.1f} s, later than the request's {timeout_s:g} s"
            raise Refusal("busy", detail, retry_after_s=wait_s - timeout_s)
        slot.began_s, slot.load = self._clock.monotonic(), self.in_flight

    def expected_wait_s(self) -> float:
        """Return when the newest request is expected to be answered, in seconds from now; 0 while nothing is known."""
        if not self._rate:
            return 0.0
        return min(self.in_flight, EXTRAPOLATION * self._load) / self._rate

    def leave(self, slot: "Slot") -> None:
        """Count a request as ended. Only one that the workflow has answered tells how fast it is."""
        self.in_flight -= 1
        if not slot.answered:
            return
        # So many were answered while it waited, as far as it stood behind those before it (Little's law).
        rate = slot.load / max(self._clock.monotonic() - slot.began_s, SHORTEST_S)
        self._rate = rate if not self._rate else self._rate + NEWEST_SHARE * (rate - self._rate)
        self._load = max(float(slot.load), self._load * (1 - LOAD_DECAY))

    async def _why_held(self) -> Refusal:
        """Look whether the stream can be reached, and so is full; once a second, however many ask."""
        now_s = self._clock.monotonic()
        if self._hold is None or now_s - self._hold[0] > LOOK_S:
            self._hold = (now_s, await self._look())
        return self._hold[1]

    async def _look(self) -> Refusal:
        stream = self._inference.stream
        try:
            async with asyncio.timeout(LOOK_S):
                await self._inference.bus.stream_state(stream)
        except (BusError, TimeoutError) as error:
            detail = f"NATS cannot be reached: {error or 'no answer'}"
        else:
            detail = f"stream {stream} is full and takes nothing now"
        return Refusal("unavailable", detail, retry_after_s=RETRY_S)


class Slot:
    """One request in flight, until `close` or the end of its `with` block.

    answered: to be set once the workflow has answered. began_s, load: when it was admitted (monotonic), and how many
    were in flight then.
    """

    __slots__ = ("_admission", "answered", "began_s", "load")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.answered = False
        self.began_s = 0.0
        self.load = 0

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._admission.leave(self)
