"""The messages on some subjects of a stream, first or last ones, read without any consumer of the workflow's own."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence

from runtime.bus.base import Bus
from runtime.bus.stored import Scan, StoredMessage
from runtime.errors import NotFoundError
from runtime.spec import names

# By how much the part of the stream grows in which the last messages are looked for.
GROWTH = 8
# Seconds that a follower waits at the server before it asks again.
WAIT_S = 5.0


def output_subjects(stream: str, source: str) -> list[str]:
    """Return the subjects of what a node sends, all its channels, or of one `node.channel`; or of `entrypoint`."""
    own = names.node_subject(stream, *source.split(".", 1))
    return [own, f"{own}.>"]


async def input_subjects(bus: Bus, stream: str, node: str) -> list[str]:
    """Return the subjects that a node reads, its redrives included. Raises NotFoundError for a node without any."""
    states = [state for state in await bus.consumer_states(stream) if names.node_of(state.name) == node]
    if not states:
        raise NotFoundError(f'stream {stream} has no consumer of a node "{node}"')
    return list(dict.fromkeys(subject for state in states for subject in state.filter_subjects))


async def first(bus: Bus, stream: str, subjects: Sequence[str], count: int) -> list[StoredMessage]:
    """Return the oldest messages that are kept. Raises NotFoundError, BusUnavailableError."""
    scan = await bus.scan(stream, subjects=subjects)
    found: list[StoredMessage] = []
    try:
        while len(found) < count and (page := await scan.read()):
            found += page
    finally:
        await scan.close()
    return found[:count]


async def last(bus: Bus, stream: str, subjects: Sequence[str], count: int) -> list[StoredMessage]:
    """Return the newest messages, oldest first. Raises NotFoundError, BusUnavailableError.

    The server tells how many messages a scan will meet. So the end of the stream is taken in growing parts until one
    holds enough, and only that one is read: of a stream of any size a few times `count` messages at most.
    """
    state = await bus.stream_state(stream)
    part = count
    while True:
        begin = max(state.first_sequence, state.last_sequence - part + 1)
        scan = await bus.scan(stream, subjects=subjects, first_sequence=begin)
        try:
            if scan.left >= count or begin <= state.first_sequence:
                return list(await _keep_last(scan, state.last_sequence, count))
        finally:
            await scan.close()
        part *= GROWTH


async def follow(bus: Bus, stream: str, subjects: Sequence[str], after: int) -> AsyncGenerator[StoredMessage, None]:
    """Yield what is stored behind the sequence `after`, as it comes, until cancelled."""
    scan = await bus.scan(stream, subjects=subjects, first_sequence=after + 1)
    try:
        while True:
            for message in await scan.read(wait_s=WAIT_S):
                yield message
    finally:
        await scan.close()


async def _keep_last(scan: Scan, last_sequence: int, count: int) -> deque[StoredMessage]:
    kept: deque[StoredMessage] = deque(maxlen=count)
    while page := await scan.read():
        kept += (message for message in page if message.sequence <= last_sequence)
        if page[-1].sequence >= last_sequence:
            break
    return kept
