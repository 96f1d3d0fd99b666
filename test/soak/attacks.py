"""What a soak does to the processes of a workflow and to NATS, at random moments."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from runtime.bus.embedded import EmbeddedServer
from runtime.deploy.plan import MANAGER, WRITER
from runtime.deploy.process import ReplicaStatus
from runtime.deploy.supervisor import Supervisor

# Seconds that a frozen process stands still.
FREEZE_S = 3.0


class Attacks:
    """One attack every `every_s` seconds on average. made: how often each was made, by its name."""

    def __init__(
        self, supervisor: Supervisor, server: EmbeddedServer, *, every_s: float, seed: int, limit: int = sys.maxsize
    ) -> None:
        self._supervisor = supervisor
        self._server = server
        self._every_s = every_s
        self._limit = limit
        self._random = random.Random(seed)
        self.made: Counter[str] = Counter()
        # Called with the name of each attack, before it is made.
        self.on_attack: Callable[[str], None] = lambda name: None
        # By weight: what happens most in the field is a process that dies.
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "node killed": (6, self._kill_node),
            "node frozen": (2, self._freeze_node),
            "writer killed": (2, lambda: self._kill(WRITER)),
            "manager killed": (2, lambda: self._kill(MANAGER)),
            "NATS killed": (1, self._kill_nats),
            "NATS stopped": (1, self._restart_nats),
            "NATS frozen": (1, self._freeze_nats),
        }

    async def run(self) -> None:
        """Make `limit` attacks; when cancelled, what is frozen goes on."""
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        # Each kind once at first, so that a short run has seen them all.
        first = self._random.sample(names, len(names))
        while self.made.total() < self._limit:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._every_s)
            name = first.pop() if first else self._random.choices(names, weights)[0]
            self.on_attack(name)
            await self._kinds[name][1]()
            self.made[name] += 1

    def _replicas(self, process: str = "") -> list[ReplicaStatus]:
        """Return the working replicas of a process, by default those of every node."""
        return [
            status
            for status in self._supervisor.states()
            if status.works and (status.process == process if process else status.process not in (MANAGER, WRITER))
        ]

    async def _kill(self, process: str = "") -> None:
        if replicas := self._replicas(process):
            _signal(self._random.choice(replicas).pid, signal.SIGKILL)

    async def _kill_node(self) -> None:
        await self._kill()

    async def _freeze_node(self) -> None:
        if replicas := self._replicas():
            async with _frozen(self._random.choice(replicas).pid):
                await asyncio.sleep(FREEZE_S)

    async def _kill_nats(self) -> None:
        self._server.kill()
        await self._server.start()

    async def _restart_nats(self) -> None:
        await self._server.stop()
        await self._server.start()

    async def _freeze_nats(self) -> None:
        async with _frozen(self._server.pid):
            await asyncio.sleep(FREEZE_S)


@asynccontextmanager
async def _frozen(pid: int | None) -> AsyncIterator[None]:
    _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pid, signal.SIGCONT)


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is None:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it ended by itself just now
        return
