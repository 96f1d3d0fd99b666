"""What a runner tells of itself in the presence bucket, and which of two runners has to yield. Pure.

A name has one signature. A runner that finds another signature of one of its names yields when the other is older:
one that serves is older than one that joins, else the key that was written first is. Both sides come to the same end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from runtime.bus.presence import ServiceRecord


class RunnerState(StrEnum):
    """What a runner is doing."""

    # It looks for others with its names.
    JOINING = "joining"
    SERVING = "serving"
    # It takes nothing any more, and finishes what it has.
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Offered:
    """An algorithm in the record of a runner; its schemas are asked for."""

    hash: str
    version: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRecord:
    """One start of a runner, as it told last. born: first revision of its key. replaces: it was told to win."""

    runner: str
    instance: str
    state: RunnerState
    born: int
    replaces: bool = False
    algorithms: Mapping[str, Offered] = field(default_factory=dict)

    @classmethod
    def of(cls, record: ServiceRecord) -> Self:
        """Read it from a presence record. Raises ValueError for one that is no runner's."""
        told = record.metadata
        try:
            algorithms = {name: Offered(**each) for name, each in told["algorithms"].items()}
            return cls(
                runner=record.name,
                instance=record.instance,
                state=RunnerState(told["state"]),
                born=int(told["born"]),
                replaces=bool(told["replaces"]),
                algorithms=algorithms,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{record.name} is no runner of algorithms: {error!r}") from error

    def metadata(self) -> dict[str, Any]:
        """Return what the presence record's metadata holds."""
        return {
            "state": self.state,
            "born": self.born,
            "replaces": self.replaces,
            "algorithms": {
                name: {"hash": each.hash, "version": each.version, "doc": each.doc}
                for name, each in self.algorithms.items()
            },
        }

    @property
    def label(self) -> str:
        return f"{self.runner} ({self.instance})"

    def conflicts_with(self, other: "RunnerRecord") -> list[str]:
        """Return the names of which the two have different signatures."""
        if other.instance == self.instance or RunnerState.DRAINING in (self.state, other.state):
            return []
        theirs = other.algorithms
        return [name for name, own in self.algorithms.items() if name in theirs and theirs[name].hash != own.hash]

    def yields_to(self, other: "RunnerRecord") -> bool:
        """Say whether this runner, and not the other, gives up what both of them have."""
        if self.replaces != other.replaces:
            return other.replaces
        if self.replaces:  # both were told to win: the later one is what was asked for last
            return self._age < other._age
        return self._age > other._age

    @property
    def _age(self) -> tuple[bool, int, str]:
        """Sort older runners first."""
        return self.state is RunnerState.JOINING, self.born, self.instance


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another runner that has an algorithm with another signature."""

    name: str
    other: RunnerRecord


def conflicts(own: RunnerRecord, others: Iterable[RunnerRecord]) -> list[Conflict]:
    """Return every conflict, by name."""
    found = [Conflict(name, other) for other in others for name in own.conflicts_with(other)]
    return sorted(found, key=lambda conflict: (conflict.name, conflict.other.born))


def shared(own: RunnerRecord, others: Iterable[RunnerRecord]) -> Sequence[tuple[str, str]]:
    """Return what runners of other names offer with the same signature: name of the algorithm, name of the runner."""
    return sorted(
        {
            (name, other.runner)
            for other in others
            if other.runner != own.runner
            for name, each in own.algorithms.items()
            if name in other.algorithms and other.algorithms[name].hash == each.hash
        }
    )
