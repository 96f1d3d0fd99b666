"""Where a peer stands, and how its process begins and ends: the part that all peers share."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvloop


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One stage of a chain: it takes from `source` through `durable` and publishes to `target`, all in `stream`.

    replies: the stage is the last one, and answers the caller. ready_fd: written to once the peer can take messages.
    """

    server: str
    stream: str
    durable: str
    source: str
    target: str
    replies: bool
    ready_fd: int

    def say_ready(self) -> None:
        os.write(self.ready_fd, b"ready\n")
        os.close(self.ready_fd)


def run(serve: Callable[[Place], Awaitable[None]]) -> None:
    """Serve at the place that the command line tells, on uvloop, until SIGTERM."""
    place = Place(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_terminated(serve(place)))


async def until_terminated(serving: Awaitable[None]) -> None:
    """Wait for SIGTERM, which ends what is served."""
    task = asyncio.ensure_future(serving)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
