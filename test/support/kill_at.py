"""The runtime, killing itself at a point of the message path: `python -m test.support.kill_at POINT PASS node`.

At the PASSth time that the path comes to the point, the process gets SIGKILL, as from the outside: no handler, no
`finally`, no buffer flushed. The points are the awaits and the hand-overs of the path, in its order.
"""

import functools
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Point:
    """A call of `method` of the class `owner`: before it begins, or after it has returned."""

    owner: str
    method: str
    when: Literal["before", "after"]


_RUNNER = "runtime.node.runner:Runner"
_PUBLISHER = "runtime.bus.publish:NatsPublisher"
_READER = "runtime.bus.pull:NatsReader"
_HISTORY = "runtime.node.history:History"
_DEAD_LETTERS = "runtime.node.dead_letters:DeadLetters"
_WRITER = "runtime.stores.writer:Writer"
_SQLITE = "runtime.stores.sqlite:SqliteDocumentStore"
_DESK = "runtime.deploy.writer_service:WriterDesk"
_MANAGER = "runtime.deploy.manager:Manager"
_TOPOLOGY = "runtime.bus.topology:Topology"

# A message of a handler that takes batches.
_BATCHER = "runtime.node.batching:Batcher"
BATCHING_POINTS = {
    "before gathering": Point(_BATCHER, "submit", "before"),
    "gathered": Point("runtime.node.batching_gather:Gathering", "add", "after"),
    "before the call": Point(_BATCHER, "_call", "before"),
    "inside of the call": Point(_BATCHER, "_run", "before"),
    "called": Point(_BATCHER, "_run", "after"),
    "results handed out": Point(_BATCHER, "_call", "after"),
    "before a message is called again": Point("runtime.node.work:Work", "begin_again", "before"),
    "message back in the runner": Point(_BATCHER, "submit", "after"),
}
# A message that goes well.
NODE_POINTS = {
    "taken": Point(_READER, "take", "after"),
    "before decoding": Point(_RUNNER, "_decode", "before"),
    "decoded": Point(_RUNNER, "_decode", "after"),
    "handled": Point(_RUNNER, "_emit", "before"),
    "before publishing": Point(_PUBLISHER, "publish", "before"),
    "handed to the publisher": Point(_PUBLISHER, "publish", "after"),
    "before a PubAck counts": Point("runtime.node.work:Work", "confirmed", "before"),
    "before the end is decided": Point(_RUNNER, "_finish", "before"),
    "before the ack": Point(_READER, "ack", "before"),
    "ack written": Point(_READER, "ack", "after"),
}
# A message of a node with a state.
_STATES = "runtime.node.state:States"
STATE_POINTS = {
    "before the state is read": Point(_STATES, "_read", "before"),
    "state read": Point(_STATES, "_read", "after"),
    "before the handler": Point(_STATES, "_call", "before"),
    "before the state is kept": Point(_STATES, "_keep", "before"),
    "state kept": Point(_STATES, "_keep", "after"),
    "outputs published": Point(_STATES, "_publish", "after"),
}
# A message of an atomic node, with several outputs.
_ATOMIC = "runtime.node.atomic:AtomicOutputs"
ATOMIC_POINTS = {
    "output held": Point("runtime.node.holding:HoldingOutputs", "emit", "after"),
    "before the batch is gathered": Point(_ATOMIC, "release", "before"),
    "a message gathered": Point("runtime.node.atomic:_Batch", "publish", "after"),
    "before the batch is written": Point(_PUBLISHER, "_write_batch", "before"),
    "batch written": Point(_PUBLISHER, "_write_batch", "after"),
    "batch released": Point(_ATOMIC, "release", "after"),
}
# A part of a set that a join waits for.
_JOINS = "runtime.node.join:Joins"
JOIN_POINTS = {
    "before the set is read": Point(_JOINS, "_read", "before"),
    "set read": Point(_JOINS, "_read", "after"),
    "before the set is written": Point(_JOINS, "_write", "before"),
    "set written": Point(_JOINS, "_write", "after"),
    "before the set is handled": Point(_JOINS, "_handle_set", "before"),
    "set handled": Point(_JOINS, "_handle_set", "after"),
    "part given back": Point(_READER, "nak", "after"),
}
# A message of a node of kind batch, whose model runs once.
_EXECUTION = "runtime.batch.execution:Execution"
BATCH_POINTS = {
    "record made": Point("runtime.batch.records:RunRecords", "create", "after"),
    "run taken": Point(_EXECUTION, "_take", "after"),
    "before the start is told": Point("runtime.batch.callbacks:HttpCallbacks", "ask_start", "before"),
    "start told": Point("runtime.batch.callbacks:HttpCallbacks", "ask_start", "after"),
    "run prepared": Point(_EXECUTION, "_prepare", "after"),
    "before the model": Point("runtime.batch.command:CommandBackend", "start", "before"),
    "model started": Point("runtime.batch.command:CommandBackend", "start", "after"),
    "model ended": Point(_EXECUTION, "_run_with", "after"),
    "end of the model recorded": Point(_EXECUTION, "_run", "after"),
    "before the artifacts": Point("runtime.batch.storing:RunStoring", "store", "before"),
    "an artifact stored": Point("runtime.batch.storing:RunStoring", "_put", "after"),
    "artifacts stored": Point("runtime.batch.storing:RunStoring", "store", "after"),
    "before the end is told": Point("runtime.batch.callbacks:HttpCallbacks", "tell_end", "before"),
    "end told": Point("runtime.batch.callbacks:HttpCallbacks", "tell_end", "after"),
    "run finished": Point("runtime.batch.worker:Worker", "handle", "after"),
}
# A message whose payload, and that of its output, lie in an object store.
_CLAIMS = "runtime.bus.claims:Claims"
_OBJECTS = "runtime.bus.objects:NatsObjectStore"
CLAIM_POINTS = {
    "before a payload is fetched": Point(_CLAIMS, "fetch", "before"),
    "payload half fetched": Point(_OBJECTS, "_next_chunk", "after"),
    "payload fetched": Point(_CLAIMS, "fetch", "after"),
    "before a payload is put": Point(_CLAIMS, "_put_once", "before"),
    "payload half put": Point(_OBJECTS, "_publish_all", "after"),
    "before a payload is described": Point(_OBJECTS, "_describe", "before"),
    "payload put": Point(_CLAIMS, "_put_once", "after"),
    "claim put, before publishing": Point(_PUBLISHER, "publish", "before"),
    "claim handed to the publisher": Point(_PUBLISHER, "publish", "after"),
    "before the PubAck of a claim counts": Point("runtime.node.work:Work", "confirmed", "before"),
    "before the ack of a claim": Point(_READER, "ack", "before"),
}
# A message of a sink: documents by the writer, points by the node itself.
SINK_POINTS = {
    "before the document is sent": Point("runtime.node.context:Database", "save", "before"),
    "document stored": Point("runtime.node.context:Database", "save", "after"),
    "before the point is written": Point("runtime.stores.point_queue:QueuedPoints", "write", "before"),
    "point written": Point("runtime.stores.point_queue:QueuedPoints", "write", "after"),
}
# A message whose handler raises, first to be tried again and then given up.
FAILURE_POINTS = {
    "before the history is read": Point(_HISTORY, "read", "before"),
    "history read": Point(_HISTORY, "read", "after"),
    "before the history is written": Point(_HISTORY, "write", "before"),
    "history written": Point(_HISTORY, "write", "after"),
    "before the nak": Point(_READER, "nak", "before"),
    "nak written": Point(_READER, "nak", "after"),
    "before the dead letter": Point(_DEAD_LETTERS, "store", "before"),
    "dead letter stored": Point(_DEAD_LETTERS, "store", "after"),
    "before the term": Point(_READER, "term", "before"),
    "term written": Point(_READER, "term", "after"),
}
WRITER_POINTS = {
    "before a document is taken": Point(_WRITER, "handle", "before"),
    "before the batch": Point(_SQLITE, "insert_many", "before"),
    "batch stored": Point(_SQLITE, "insert_many", "after"),
    "before the answer": Point(_WRITER, "handle", "after"),
    "answered": Point(_DESK, "_answer", "after"),
}
MANAGER_POINTS = {
    "before a stream is made": Point(_TOPOLOGY, "ensure_stream", "before"),
    "stream made": Point(_TOPOLOGY, "ensure_stream", "after"),
    "before a consumer is made": Point(_TOPOLOGY, "ensure_consumer", "before"),
    "consumer made": Point(_TOPOLOGY, "ensure_consumer", "after"),
    "before a purge": Point(_TOPOLOGY, "purge", "before"),
    "purged": Point(_TOPOLOGY, "purge", "after"),
}
POINTS = {
    **BATCHING_POINTS,
    **NODE_POINTS,
    **STATE_POINTS,
    **ATOMIC_POINTS,
    **JOIN_POINTS,
    **BATCH_POINTS,
    **CLAIM_POINTS,
    **SINK_POINTS,
    **FAILURE_POINTS,
    **WRITER_POINTS,
    **MANAGER_POINTS,
}


def arm(point: Point, passes: int) -> None:
    """Make the process kill itself at the `passes`th pass of the point."""
    module, _, name = point.owner.partition(":")
    owner = getattr(import_module(module), name)
    left = [passes]

    def pass_point() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, point.method, _wrapped(getattr(owner, point.method), point.when, pass_point))


def _wrapped(method: Callable[..., Any], when: str, pass_point: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def plain(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            pass_point()
        result = method(*arguments, **named)
        if when == "after":
            pass_point()
        return result

    @functools.wraps(method)
    async def asynchronous(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            pass_point()
        result = await method(*arguments, **named)
        if when == "after":
            pass_point()
        return result

    return asynchronous if inspect.iscoroutinefunction(method) else plain


def main() -> None:
    point, passes = sys.argv[1], int(sys.argv[2])
    arm(POINTS[point], passes)
    del sys.argv[1:3]
    runpy.run_module("runtime", run_name="__main__")


if __name__ == "__main__":
    main()
