"""Waiting for what no event of the event loop tells of."""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 20.0


async def until(reached: Callable[[], bool]) -> None:
    """Return once it is so; asked again every 5 ms."""
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_gone(pid: int) -> None:
    """Return once a process has ended."""
    with contextlib.suppress(ProcessLookupError):
        ending = os.pidfd_open(pid)
        readable, _, _ = await asyncio.to_thread(select.select, [ending], [], [], PATIENCE_S)
        os.close(ending)
        assert readable, "it is still there"
