"""Sink `collect`: keeps outputs in memory, for tests."""

import asyncio
from typing import Any

from runtime.drivers.flow import Item, Sink, SinkParameters


class CollectSink(Sink):
    """Keeps every output in memory, in order: `outputs`, and what each belongs to in `items`. For tests only."""

    def __init__(self, params: SinkParameters | None = None, **values: Any) -> None:
        super().__init__(params, **values)
        self.outputs: list[Any] = []
        self.items: list[Item] = []
        self._changed = asyncio.Event()

    async def write(self, outputs: Any, item: Item) -> None:
        self.outputs.append(outputs)
        self.items.append(item)
        self._changed.set()

    async def wait(self, count: int) -> list[Any]:
        """Return the outputs once there are so many; to be awaited on the driver's loop. Cancelling is safe."""
        while len(self.outputs) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.outputs
