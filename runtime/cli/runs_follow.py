"""Batch runs while they go on: their changes and their output, until they have ended."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import typer

from runtime.batch.records import RunRecords
from runtime.batch.run import RunRecord
from runtime.cli.runs_files import RunFiles

# The streams of a model with the files that keep them.
LOG_FILES = {"stdout": "log/stdout.log", "stderr": "log/stderr.log"}


async def changes(records: RunRecords, run_id: str, *, after: RunRecord | None = None) -> AsyncIterator[RunRecord]:
    """Yield a run as it is, and after every change, until it has ended. One that is not there yet is waited for.

    after: an ending that is not meant, for the run goes on. Raises NotFoundError for a workflow without nodes of kind
    batch, BusUnavailableError.
    """
    queue: asyncio.Queue[RunRecord] = asyncio.Queue()
    watch = await records.follow(run_id, queue.put_nowait)
    try:
        while True:
            record = await queue.get()
            if record == after:
                continue
            yield record
            if record.state.is_final:
                return
    finally:
        await watch.unsubscribe()


async def wait_for_all(
    records: RunRecords, run_ids: Sequence[str], on_change: Callable[[RunRecord], None]
) -> list[RunRecord]:
    """Return all runs once they have ended, in the order of their ids. on_change: called when a state changes."""

    async def wait(run_id: str) -> RunRecord:
        state = None
        async for record in changes(records, run_id):
            if record.state is not state:
                on_change(record)
            state, last = record.state, record
        return last

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(wait(run_id), name=f"follow {run_id}") for run_id in run_ids]
    return [task.result() for task in waiting]


async def follow_output(records: RunRecords, run_id: str) -> RunRecord:
    """Print what a run writes from now on, and return it when it has ended.

    Every piece is told before the end is: they come over one connection of the worker's, in its order.
    """
    # Printed here and not where it arrives: what becomes of the terminal is the command's business, not the bus's.
    told: asyncio.Queue[RunRecord | tuple[str, bytes]] = asyncio.Queue()
    listening = await records.follow_output(run_id, lambda stream, piece: told.put_nowait((stream, piece)))
    watch = await records.follow(run_id, told.put_nowait)
    try:
        while True:
            each = await told.get()
            if isinstance(each, tuple):
                print_piece(*each)
            elif each.state.is_final:
                return each
    finally:
        await watch.unsubscribe()
        await listening.unsubscribe()


async def print_stored(files: RunFiles) -> None:
    """Print what a run has written and was kept, each stream on its own of this process."""
    kept = {each.path: each for each in await files.list()}
    for stream, path in LOG_FILES.items():
        if path in kept:
            async for piece in files.pieces(kept[path]):
                print_piece(stream, piece)


def print_piece(stream: str, piece: bytes) -> None:
    """Write a piece of output as it is: it need not be text."""
    out = sys.stderr if stream == "stderr" else sys.stdout
    out.buffer.write(piece)
    out.flush()


def print_change(record: RunRecord) -> None:
    """Tell on the standard error where a run is."""
    from runtime.cli.runs_text import outcome

    typer.echo(f"{record.run_id}  {outcome(record)}", err=True)
