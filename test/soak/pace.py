"""The rate of a soak, and how soon it is back after a node was killed."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from statistics import median

SAMPLE_S = 0.1
# The rate before a kill is that of so many seconds; it is back when one second has this share of it.
BEFORE_S = 3.0
WINDOW_S = 1.0
BACK_SHARE = 0.8
# Within so many seconds it has to be back; a kill that another attack followed sooner tells nothing.
LIMIT_S = 5.0


class Pace:
    """Samples a count, and the moments of attacks."""

    def __init__(self) -> None:
        # (monotonic seconds, count)
        self._samples: list[tuple[float, int]] = []
        # (monotonic seconds, whether a node was killed)
        self._attacks: list[tuple[float, bool]] = []

    async def watch(self, count: Callable[[], int]) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._samples.append((loop.time(), count()))
            await asyncio.sleep(SAMPLE_S)

    def note_attack(self, *, kills_node: bool) -> None:
        self._attacks.append((asyncio.get_running_loop().time(), kills_node))

    def recoveries_s(self) -> list[float]:
        """Return the seconds to recovery of each kill; of one that it did not recover from, until the next attack."""
        if not self._samples:
            return []
        spans = pairwise([*self._attacks, (self._samples[-1][0], False)])
        found = [self._recovery_s(begin_s, end_s) for (begin_s, kills_node), (end_s, _) in spans if kills_node]
        return [seconds for seconds in found if seconds is not None]

    def _recovery_s(self, kill_s: float, end_s: float) -> float | None:
        before = self._rates(kill_s - BEFORE_S, kill_s)
        if not before or not (usual := median(before)):
            return None
        for at_s, count in self._samples:
            if kill_s + WINDOW_S <= at_s <= end_s:
                earlier = next(c for s, c in self._samples if s >= at_s - WINDOW_S)
                if (count - earlier) / WINDOW_S >= BACK_SHARE * usual:
                    return at_s - WINDOW_S - kill_s
        return end_s - kill_s if end_s - kill_s > LIMIT_S else None

    def _rates(self, begin_s: float, end_s: float) -> list[float]:
        """Return the rate of every step between two samples of the time span."""
        samples = [sample for sample in self._samples if begin_s <= sample[0] <= end_s]
        return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(samples)]
