"""Our node without what is there for messages that fail: no retries, no dead letters, no states.

It is the same process with another way from take to settle, on which everything succeeds at its first try; timeouts and
what callers have cancelled are looked at as ever. What a node needs beyond it, for a message that does, is the cost of
that machinery.
"""

import asyncio
import sys

from runtime.bus.base import Delivery, Reader
from runtime.cli import processes
from runtime.node import process
from runtime.node.runner import Runner
from runtime.node.work import Work


class FirstTryRunner(Runner):
    """Takes, decodes, calls, publishes and acknowledges; an exception ends the process."""

    async def work_on(self, delivery: Delivery, reader: Reader, slot: asyncio.Task[None]) -> None:
        self._counts.taken += 1
        work = Work(delivery, reader, self._finish, slot)
        self._read(work)
        call = self._decode(work)
        assert call is not None, "no message of the benchmark passes by"
        await self._handle(work, *call)
        work.end(None)

    def _finish(self, work: Work) -> None:
        work.reader.ack(work.delivery)
        self._counts.ok += 1


if __name__ == "__main__":
    process.Runner = FirstTryRunner  # type: ignore[attr-defined]  # the one part that differs
    sys.exit(processes.run(sys.argv[1]))
