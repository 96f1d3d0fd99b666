"""What commands share that run until somebody stops them: a lock, signals, the loss of NATS, the end of processes."""

import asyncio
import fcntl
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.bus.base import Bus
from runtime.deploy.supervisor import Supervisor
from runtime.errors import BusClosedError, ConfigError

# A closed terminal is a signal too.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def only_one(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock, which goes with the process, however it ends. Raises ConfigError with the refusal."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise ConfigError(refusal) from err
        yield


@contextmanager
def on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call back for each signal that asks this process to end."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def end_processes(supervisor: Supervisor, force: asyncio.Event) -> bool:
    """End every process in order, and by force as soon as `force` is set; says whether it was."""
    async with asyncio.TaskGroup() as group:
        forcing = group.create_task(_stop_when_forced(supervisor, force), name="force")
        await supervisor.stop()
        forcing.cancel()
    return force.is_set()


async def _stop_when_forced(supervisor: Supervisor, force: asyncio.Event) -> None:
    await force.wait()
    await supervisor.stop()


async def stopped_or_closed(stop: asyncio.Event, bus: Bus) -> None:
    """Return once `stop` is set. Raises BusClosedError when NATS has closed the connection for good."""
    stopped = asyncio.ensure_future(stop.wait())
    closed = asyncio.ensure_future(bus.wait_closed())
    try:
        await asyncio.wait([stopped, closed], return_when=asyncio.FIRST_COMPLETED)
        if closed.done() and not stop.is_set():
            raise BusClosedError("NATS has closed the connection for good")
    finally:
        for task in (stopped, closed):
            task.cancel()
        await asyncio.gather(stopped, closed, return_exceptions=True)
