"""The dove goes on from where it is, as far as it usually goes."""

from birdgame.trackers.trackerbase import TrackerBase

# Share of the newest step in the average of squared steps.
NEW = 0.1


class Drift(TrackerBase):
    def __init__(self) -> None:
        self.location: float | None = None
        self.variance = 1.0

    def tick(self, payload: dict, performance_metrics: dict | None = None) -> None:
        location = payload["dove_location"]
        if self.location is not None:
            step = location - self.location
            self.variance += NEW * (step * step - self.variance)
        self.location = location

    def predict(self) -> dict:
        return {"loc": self.location, "scale": max(self.variance, 1e-6) ** 0.5}
