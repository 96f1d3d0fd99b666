"""The one that fails now and then: every seventh time it has lost the dove. The better it does, the bolder it gets."""

from birdgame.trackers.trackerbase import TrackerBase

CAUTIOUS, BOLD = 2.0, 1.0


class Moody(TrackerBase):
    def __init__(self) -> None:
        self.location = 0.0
        self.answers = 0
        self.scale = CAUTIOUS

    def tick(self, payload: dict, performance_metrics: dict | None = None) -> None:
        # Doves flee.
        flight = payload["dove_location"] - payload["falcon_location"]
        self.location = payload["dove_location"] + 0.05 * flight
        if performance_metrics:
            self.scale = BOLD if performance_metrics["wealth"] > 100 else CAUTIOUS

    def predict(self) -> dict:
        self.answers += 1
        if self.answers % 7 == 0:
            raise RuntimeError("lost sight of the dove")
        return {"loc": self.location, "scale": self.scale}
