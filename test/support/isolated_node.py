"""A node under test whose handler runs in worker processes: real ones, on a bus in memory."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from runtime.bus.object_store import ObjectStoreConfig
from runtime.clock import settle
from runtime.node.kinds import open_handler
from runtime.node.process import NodeProcess, open_stores, read_spec
from test.support.node import NodeUnderTest, node_spec

# Real seconds in which processes start on a machine that has other things to do.
STARTING_S = 60.0


class IsolatedNode(NodeUnderTest):
    """Handlers in `workers` processes; 0 for threads, to compare."""

    def __init__(self, folder: Path, source: str, *, workers: int = 1, **options: Any) -> None:
        spec = options.pop("spec", None) or node_spec()
        super().__init__(folder, source, spec=spec.model_copy(update={"workers": workers or None}), **options)
        self._stack = AsyncExitStack()

    async def start(self) -> "IsolatedNode":
        await self.prepare()
        await self.outside.ensure_object_store(ObjectStoreConfig(name=self.settings.object_store or "unused"))
        for bucket in self.settings.configuration_buckets.values():
            if bucket:
                await self.outside.key_value(bucket, create=True)
        async with asyncio.timeout(STARTING_S):
            make_handler = await self._stack.enter_async_context(open_handler(self.settings, read_spec(self.settings)))
            handler = make_handler(self.bus, self.clock)
            self._process = NodeProcess(self.settings, self.bus, open_stores(self.settings), handler, self.clock)
            await self._process.start()
        await settle()
        return self

    async def stop(self) -> None:
        await super().stop()
        await self._stack.aclose()
