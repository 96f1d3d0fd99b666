"""The slow one: reads its notes before each answer, and every tenth time all of them, for longer than anybody waits."""

import time
from collections import deque
from itertools import pairwise
from statistics import fmean, pstdev

from birdgame.trackers.trackerbase import TrackerBase

# Steps that are remembered.
NOTES = 20
# Seconds of an answer, and of every tenth one.
USUAL_S = 0.1
THOROUGH_S = 0.6


class Scholar(TrackerBase):
    def __init__(self) -> None:
        self.locations: deque[float] = deque(maxlen=NOTES)
        self.answers = 0

    def tick(self, payload: dict) -> None:
        self.locations.append(payload["dove_location"])

    def predict(self) -> dict:
        self.answers += 1
        time.sleep(USUAL_S if self.answers % 10 else THOROUGH_S)
        locations = list(self.locations)
        steps = [after - before for before, after in pairwise(locations)] or [0.0]
        return {"loc": locations[-1] + fmean(steps), "scale": pstdev(steps) or 1.0}
