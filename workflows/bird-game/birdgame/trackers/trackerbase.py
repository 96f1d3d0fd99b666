"""What every tracker of the game is: it is told where the birds are, and says where the dove will be."""

from abc import ABC, abstractmethod


class TrackerBase(ABC):
    """A tracker lives as long as its host; what it has learnt it keeps in itself."""

    @abstractmethod
    def tick(self, payload: dict, performance_metrics: dict | None = None) -> None:
        """Take in what the falcon has seen.

        payload: {falcon_location, dove_location, time in seconds, falcon_id}. performance_metrics: {wealth,
        likelihood_ewa} of this tracker; a tracker without that parameter is called without it.
        """

    @abstractmethod
    def predict(self) -> dict:
        """Return a normal distribution of the dove's location one tick from now: {loc, scale}, scale above 0."""
