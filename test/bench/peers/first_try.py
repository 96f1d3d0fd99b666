"""Our node without what is there for messages that fail: no retries, dead letters, timeouts, states or cancellations.

It is the same process with another way from take to settle, on which everything succeeds at its first try. What a node
needs beyond it, for a message that does, is the cost of that machinery.
"""

import asyncio
import sys

from runtime.bus.base import Delivery, Reader
from runtime.cli import processes
from runtime.node import process
from runtime.node.context import Context
from runtime.node.runner import Runner
from runtime.node.work import Work


class FirstTryRunner(Runner):
    """Takes, decodes, calls, publishes and acknowledges; an exception ends the process."""

    async def _work_on(self, delivery: Delivery, reader: Reader, slot: asyncio.Task[None]) -> None:
        self._metrics.counts.taken += 1
        work = Work(delivery, reader, self._finish)
        work.message = message = self._parts.decode(delivery.data)
        function = self._parts.handler.select(message.from_node)
        assert function is not None, "there is a handler for every sender"
        context = Context(self._parts.services, work)
        data = function.decode(message.payload)
        started_s = self._clock.monotonic()
        result = await function.function(context, data)
        work.run_s = self._clock.monotonic() - started_s
        self._metrics.observe(work.run_s, True, message)
        await self._emit(work, result)
        work.end(None)

    def _finish(self, work: Work) -> None:
        work.reader.ack(work.delivery)
        self._metrics.counts.ok += 1


if __name__ == "__main__":
    process.Runner = FirstTryRunner  # type: ignore[attr-defined]  # the one part that differs
    sys.exit(processes.run(sys.argv[1]))
