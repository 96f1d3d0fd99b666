"""What a batch run writes while somebody listens over HTTP."""

import asyncio
from collections.abc import AsyncIterator

from runtime.batch.records import RunRecords
from runtime.batch.run import RunRecord

# Pieces that wait for a client that is slower than the run, 256 KiB each at most; older ones are left out then.
MAX_WAITING = 64
LEFT_OUT = b"\n[... output was left out, for it came faster than it was read ...]\n"


async def live_output(records: RunRecords, run_id: str) -> AsyncIterator[bytes]:
    """Yield what a run writes from now on, both streams as they come, until it has ended. Raises BusError."""
    waiting = _Waiting()

    def on_record(record: RunRecord) -> None:
        if record.state.is_final:
            waiting.end()

    output = await records.follow_output(run_id, lambda _, data: waiting.add(data))
    try:
        changes = await records.follow(run_id, on_record)
        try:
            while (piece := await waiting.next()) is not None:
                yield piece
        finally:
            await changes.unsubscribe()
    finally:
        await output.unsubscribe()


class _Waiting:
    """Pieces between a run and a reader, of which so many wait and no more. None in the queue is its end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._left_out = False

    def add(self, piece: bytes) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            self._queue.get_nowait()
            self._left_out = True
        self._queue.put_nowait(piece)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def next(self) -> bytes | None:
        piece = await self._queue.get()
        if self._left_out and piece is not None:
            self._left_out = False
            return LEFT_OUT + piece
        return piece
