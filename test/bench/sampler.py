"""Counts in which stage of a program its processor time goes, by looking at it every few milliseconds of that time.

Between two looks the program runs as it is: nothing is wrapped, and no call is counted. SIGPROF comes while the
processor works for this process, in C and in the kernel too, but never while it waits. Python looks at the signal
between two instructions, mostly at the next call, so that a stage is known to within about half a microsecond.
"""

import dis
import signal
from collections import Counter
from collections.abc import Mapping
from types import CodeType, FrameType

# Seconds of processor time between two looks; the kernel makes of it what its clock allows, 4 ms where HZ is 250.
INTERVAL_S = 0.001

_RESUME = dis.opmap["RESUME"]


class Sampler:
    """Counts looks by stage. One at a time in a process, made and started on its main thread."""

    def __init__(self, stages: Mapping[CodeType, str], rest: str) -> None:
        """stages: the functions that make up each stage, with all that they call. rest: the stage of all others."""
        self.counts: Counter[str] = Counter()
        self._stages = stages
        self._rest = rest

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self) -> None:
        """Look no more. The handler stays: a signal that is under way would end the process."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _: int, frame: FrameType | None) -> None:
        self.counts[self.stage_of(frame)] += 1

    def stage_of(self, frame: FrameType | None) -> str:
        """Return the innermost stage that the frame is in.

        A function that has only begun, or a coroutine that has only gone on, was not what took the time: the signal
        came before, in its caller or in the event loop.
        """
        while frame is not None and _has_only_begun(frame):
            frame = frame.f_back
        while frame is not None:
            if (stage := self._stages.get(frame.f_code)) is not None:
                return stage
            frame = frame.f_back
        return self._rest


def _has_only_begun(frame: FrameType) -> bool:
    return frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _RESUME
