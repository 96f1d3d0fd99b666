"""A host's clock beside ours, from what the host says of the time with every beat. Pure."""

from collections import deque
from dataclasses import dataclass
from typing import Self

from runtime.bus.presence import BEAT_S
from runtime.models.wire import HostRecord

# Differences below this come from the network and from beats that were stored for a while.
TOLERATED_MS = 1_000
# Beats that are compared: the one that took least is nearest to the truth; a clock that was set is known after so many.
BEATS = 5
# How long the record of a host that lives may have been stored when a watch begins.
STORED_MS = round(BEAT_S * 1000)
# The first beat may be one that was stored before we looked.
MIN_BEATS = 2


class HostClock:
    """The clock of one host. Delays only ever make it look late."""

    def __init__(self) -> None:
        self._differences_ms: deque[int] = deque(maxlen=BEATS)
        # Milliseconds that the clock is behind ours, negative when it is ahead; 0 within the tolerance.
        self.behind_ms = 0

    def hear(self, host_ms: int, local_ms: int) -> None:
        """Note a beat: what the host took for the time, and what time it was here when the beat came."""
        if not host_ms:
            return
        self._differences_ms.append(local_ms - host_ms)
        behind_ms = min(self._differences_ms)
        is_told = len(self._differences_ms) >= MIN_BEATS and abs(behind_ms) > TOLERATED_MS
        self.behind_ms = behind_ms if is_told else 0


@dataclass(frozen=True, slots=True)
class Birth:
    """When a deployment was started. at_ms: by our clock. told_ms: by its host's. Both unix time in ms."""

    at_ms: int
    told_ms: int

    @classmethod
    def of(cls, record: HostRecord, now_ms: int) -> Self:
        """Read it from a record that was just told.

        How long a host has been there is known from its own two times, though its clock may be wrong. But a record that
        was stored for a while makes it look younger.
        """
        age_ms = record.now_ms - record.started_ms if record.now_ms else now_ms - record.started_ms
        return cls(now_ms - age_ms, record.started_ms)

    def is_after(self, other: Self) -> bool:
        """Say whether this deployment is the newer one; what is too near to be told apart goes by the hosts' clocks."""
        if abs(self.at_ms - other.at_ms) > STORED_MS:
            return self.at_ms > other.at_ms
        return self.told_ms > other.told_ms
