"""What a node's process tells about the GPUs that it was given: a part of its service record, for `krt status`."""

import asyncio
import logging
from dataclasses import asdict
from typing import Any, Self

from runtime.gpus import FoundGpus, read_gpus
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds between two questions to the driver: each is a process that runs for a tenth of a second or more.
ASK_EVERY_S = 10.0


class GpuWatch:
    """Asks for the GPUs of this process inside an `async with` block. share: of each of them, 0 without any."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._found = FoundGpus()
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._share:
            self._asking = asyncio.create_task(self._ask_on(), name="GPUs")
            self._asking.add_done_callback(_on_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def told(self) -> dict[str, Any]:
        """Return the metadata of the service record: the GPUs as they were last, and the share; {} without any."""
        if not self._found.gpus:
            return {}
        return {names.GPUS: [asdict(gpu) for gpu in self._found.gpus], names.GPU_SHARE: self._share}

    async def _ask_on(self) -> None:
        self._found = await read_gpus()
        if not self._found.gpus:
            log.warning("no GPU here (%s): the node works on the CPU", self._found.reason, extra={"action": "gpu"})
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            self._found = await read_gpus()


def _on_end(asking: asyncio.Task[None]) -> None:
    """Say why nothing is told any more; no message depends on it."""
    if not asking.cancelled() and (error := asking.exception()) is not None:
        log.error("the GPUs of this process are not told any more", exc_info=error, extra={"action": "gpu"})
