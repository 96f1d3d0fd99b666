"""Who serves which algorithm: the watched presence records of all runners, reduced to names. There is no registry
process; what is listed is what lives.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from runtime.algorithms.presence import Offered, RunnerRecord, RunnerState
from runtime.bus.base import Bus
from runtime.bus.presence import PresenceSet, ServiceRecord
from runtime.clock import Clock, SystemClock
from runtime.spec import names

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAlgorithm:
    """One algorithm that is served now. runners: names, sorted; instances: of all of them."""

    name: str
    hash: str
    version: str
    doc: str
    runners: tuple[str, ...]
    instances: tuple[str, ...]


class Registry:
    """The runners that are there, and what they serve: always current. To be used on the loop of the bus."""

    def __init__(self, present: PresenceSet) -> None:
        self._present = present
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, bus: Bus, clock: Clock | None = None, *, on_change: Callable[[], None] | None = None) -> Self:
        """Return it with everybody who is there. on_change: called on the loop, for every beat too. Raises BusError."""
        opened: list[Self] = []

        def changed(_key: str, _record: ServiceRecord | None) -> None:
            if opened:
                opened[0]._note_change()
                if on_change is not None:
                    on_change()

        present = await PresenceSet.open(
            bus, names.PRESENCE_BUCKET, names.algorithm_presence_keys(), clock or SystemClock(), on_change=changed
        )
        opened.append(cls(present))
        return opened[0]

    async def close(self) -> None:
        await self._present.close()

    def runners(self) -> list[RunnerRecord]:
        """Return every runner that is there, the oldest first."""
        found = []
        for key, record in self._present.records.items():
            try:
                found.append(RunnerRecord.of(record))
            except ValueError as error:
                log.debug("key %s of the presence bucket is passed over: %s", key, error)
        return sorted(found, key=lambda runner: (runner.born, runner.instance))

    def is_there(self, instance: str) -> bool:
        """Say whether an instance lives, also one that takes nothing any more and finishes what it has."""
        return any(record.instance == instance for record in self._present.records.values())

    def algorithms(self) -> dict[str, ServedAlgorithm]:
        """Return what is served now, by name."""
        served: dict[str, list[tuple[RunnerRecord, Offered]]] = {}
        for runner in self.runners():
            if runner.state is RunnerState.SERVING:
                for name, offered in runner.algorithms.items():
                    served.setdefault(name, []).append((runner, offered))
        return {name: _served(name, found) for name, found in sorted(served.items())}

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as the condition holds; it is asked after every change. Set a time limit around it."""
        while not condition():
            await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _served(name: str, found: list[tuple[RunnerRecord, Offered]]) -> ServedAlgorithm:
    oldest = found[0][1]
    return ServedAlgorithm(
        name=name,
        hash=oldest.hash,
        version=oldest.version,
        doc=oldest.doc,
        runners=tuple(sorted({runner.runner for runner, _ in found})),
        instances=tuple(runner.instance for runner, _ in found),
    )
