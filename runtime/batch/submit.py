"""Requests for runs, put into the stream of a workflow: what the CLI and HTTP drivers share.

A request goes to its node alone, whatever else reads the node's sources, and is there once `submit` has returned. The
ids of its runs are known at once; their records appear when a worker takes the request.
"""

from runtime import payload, wire
from runtime.batch.request import Request, read_request
from runtime.batch.run import run_id
from runtime.bus.base import Bus, Confirmation
from runtime.bus.presence import PresenceSet
from runtime.clock import Clock
from runtime.errors import NotFoundError
from runtime.message import Message
from runtime.spec import names

# Seconds to try to store a request in a stream that is full: somebody waits for the answer.
GIVE_UP_S = 10.0


async def submit(bus: Bus, stream: str, node: str, text: bytes, *, request_id: str) -> tuple[str, ...]:
    """Store a request, the JSON of `batch/request.py`, and return the ids of its runs in the order of its models.

    To repeat it under the same id makes the same runs, and none twice. Raises InvalidRequestError, NotFoundError for a
    node that does not read this stream, MessageTooLargeError, StreamFullError, BusUnavailableError.
    """
    body = payload.encode_value(text)
    request = read_request(body, request_id=request_id, slug=node)
    subject = await _subject_of(bus, stream, node)
    publisher = bus.publisher(stream, give_up_s=GIVE_UP_S)
    try:
        message = Message(request_id=request_id, payload=body, from_node=names.ENTRYPOINT)
        data = wire.fit(wire.encode(message), publisher.limit_bytes)
        stored = Confirmation()
        await publisher.publish(subject, data, message_id=f"{node}/{request_id}", confirm=stored)
        await stored
    finally:
        await publisher.close()
    return run_ids(request, node, request_id)


async def batch_nodes(bus: Bus, stream: str, clock: Clock) -> list[str]:
    """Return the nodes of kind batch whose workers are alive, sorted. Raises BusUnavailableError."""
    keys = names.presence_key(names.BATCH, stream, ">")
    workers = await PresenceSet.open(bus, names.PRESENCE_BUCKET, keys, clock)
    await workers.close()
    return sorted({worker.name for worker in workers.records.values()})


def run_ids(request: Request, node: str, request_id: str) -> tuple[str, ...]:
    """Return the ids of the runs of a request in the order of its models."""
    return tuple(run_id(request_id, node, index) for index in range(len(request.models)))


async def _subject_of(bus: Bus, stream: str, node: str) -> str:
    """Return a subject that the node reads, and nobody else. Raises NotFoundError."""
    own = names.redrive_subject(node, f"{stream}.")
    for consumer in await bus.consumer_states(stream):
        for subject in consumer.filter_subjects:
            if names.node_of(consumer.name) == node and subject.startswith(own) and not subject.endswith("*"):
                return subject
    raise NotFoundError(f'the workflow of {stream} has no node "{node}" that requests could be sent to')
