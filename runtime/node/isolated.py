"""What runs in a node's worker process: the user's handler, its `init` and `teardown`.

Plain functions run in the main thread, coroutines on a loop beside it, and one request is worked on at a time. The
handler's context is the same class as in the node, over services whose work the node does (`isolated_services.py`). The
node's side is `isolation_worker.py`.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import DecodeError, EncodeError, Outcome
from runtime.handover import Handover, SharedBytes
from runtime.message import MessageType
from runtime.node.batching_context import BatchContext
from runtime.node.batching_handler import for_batches, results_of
from runtime.node.context import Context, Services
from runtime.node.handler import CallKind, HandlerFunction, LoadedHandler, load_handler
from runtime.node.handler_types import handler_types
from runtime.node.isolated_calls import NodeCalls
from runtime.node.isolated_services import LogForwarder, RemoteLimit, RemoteWork, make_services
from runtime.node.isolation_failures import told
from runtime.node.isolation_frames import Body, Frames, Head, Request
from runtime.payload import decode_any, encode_result

# What answers a request: the head, and the pieces of the body.
Answer = tuple[Head, list[Body]]


def make_answer(handover: int, calls: int) -> Callable[[bytes], bytes]:
    """Return what answers the requests of the node. The arguments are descriptors of sockets that lead to it."""
    frames = Frames(Handover(_own(handover)))
    return _Child(frames, NodeCalls(_own(calls), frames)).answer


def _own(descriptor: int) -> socket.socket:
    """Return an inherited socket as one of this process alone: neither a program nor a copy that it starts has it."""
    own = socket.socket(fileno=descriptor)
    own.set_inheritable(False)
    os.register_at_fork(after_in_child=own.close)
    return own


class _Child:
    _services: Services
    _handler: LoadedHandler

    def __init__(self, frames: Frames, calls: NodeCalls) -> None:
        self._frames = frames
        self._calls = calls
        self._told: Head = {}
        # One loop for all coroutines: what a handler keeps between calls may belong to it.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        self._answers: dict[str, Callable[[Head, Body], Answer]] = {
            Request.START: self._start,
            Request.INIT: self._initialise,
            Request.HANDLE: self._handle,
            Request.TEARDOWN: self._tear_down,
        }

    def answer(self, frame: bytes) -> bytes:
        """Answer one request; what the user's code raises is an answer, too."""
        head, body = self._frames.unpack(frame)
        try:
            answer, pieces = self._answers[head["do"]](head, body)
        except (Exception, SystemExit) as error:
            answer, pieces = {"failure": told(error)}, []
        return self._frames.pack(answer, *pieces)

    def _start(self, head: Head, body: Body) -> Answer:
        self._told = head
        root = logging.getLogger()
        root.addHandler(LogForwarder(self._calls))
        root.setLevel(head["log_level"])
        handler = load_handler(Path(head["base_path"]), head["handler_path"], batched=head["batched"])
        self._handler = handler = for_batches(handler) if head["batched"] else handler
        return {
            "has_default": handler.default is not None,
            "by_node": list(handler.by_node),
            "from_node_style": handler.from_node_style,
            "channels": None if handler.channels is None else sorted(handler.channels),
            "handle_errors": handler.handle_errors,
            "types": handler_types(handler).model_dump(),
        }, []

    def _initialise(self, head: Head, body: Body) -> Answer:
        self._services = make_services(self._told | head, self._calls, self._loop)
        return self._run_beside_messages(self._handler.init)

    def _tear_down(self, head: Head, body: Body) -> Answer:
        return self._run_beside_messages(self._handler.teardown)

    def _run_beside_messages(self, function: HandlerFunction | None) -> Answer:
        if function is not None:
            self._run(function, Context(self._services, None))
        return {}, []

    # --- messages ---

    def _handle(self, head: Head, body: Body) -> Answer:
        works = [RemoteWork(message, self._calls, self._services.clock) for message in head["messages"]]
        payloads = _parts(body, head["sizes"])
        try:
            if head["batch"]:
                results = self._handle_batch(works, payloads, head["left_s"])
            else:
                results = [self._handle_one(works[0], payloads[0])]
        finally:
            # What the handler has left running can do nothing more for these.
            for work in works:
                work.handled = True
        pieces: list[Body] = []
        entries = [self._told_result(result, pieces) for result in results]
        return {
            "results": entries,
            "early_exits": [work.number for work in works if work.early_exit],
            "headers": [(work.number, work.new_headers) for work in works if work.new_headers is not None],
        }, pieces

    def _handle_one(self, work: RemoteWork, payload: Body) -> Any:
        function = self._handler.select(work.message.from_node)
        assert function is not None, "the node has looked for it"
        data = _decoded(function, work, payload)
        context = Context(self._services, work)
        if function.kind is CallKind.GENERATOR:
            for item in function.function(context, data):
                self._wait_for(self._emit(work, item))
            return None
        if function.kind is CallKind.ASYNC_GENERATOR:
            return self._wait_for(self._emit_all(work, function.function(context, data)))
        return self._run(function, context, data)

    def _handle_batch(self, works: Sequence[RemoteWork], payloads: Sequence[Body], left_s: float | None) -> list[Any]:
        """Return one result for each message; a failure stands for one that cannot be read, of which the others know
        nothing.
        """
        function = self._handler.default
        assert function is not None, "checked when it was loaded"
        results: list[Any] = []
        for work, payload in zip(works, payloads, strict=True):
            try:
                results.append(_decoded(function, work, payload))
            except DecodeError as error:
                results.append(error)
        read = [number for number, data in enumerate(results) if not isinstance(data, DecodeError)]
        if read:
            limit = RemoteLimit(left_s, self._calls, self._services.clock)
            context = BatchContext(self._services, [Context(self._services, works[number]) for number in read], limit)
            returned = self._run(function, context, [results[number] for number in read])
            for number, result in zip(read, results_of(returned, len(read)), strict=True):
                results[number] = result
        return results

    async def _emit(self, work: RemoteWork, item: Any) -> None:
        if isinstance(item, Outcome):
            raise item
        kind = MessageType.EARLY_EXIT if work.early_exit else MessageType.OK
        await self._services.outputs.emit(work, encode_result(item), kind=kind)

    async def _emit_all(self, work: RemoteWork, items: Any) -> None:
        try:
            async for item in items:
                await self._emit(work, item)
        finally:
            await items.aclose()

    def _told_result(self, result: Any, pieces: list[Body]) -> Head:
        """Return what is told of a message's result, and add its payloads to the pieces."""
        if isinstance(result, Exception):
            return {"sizes": [], "many": False, "failure": told(result)}
        if self._handler.from_node_style:  # what it returns is ignored; the node says so
            return {"sizes": [] if result is None else [0], "many": False}
        many = isinstance(result, list)
        entry: Head = {"sizes": [], "many": many}
        for value in result if many else [] if result is None else [result]:
            if isinstance(value, Outcome):
                return {**entry, "failure": told(value)}
            try:
                payload = encode_result(value)
            except EncodeError as error:
                return {"sizes": [], "many": False, "failure": told(error)}
            own = [payload] if isinstance(payload, bytes) else list(payload)
            entry["sizes"].append(sum(map(len, own)))
            pieces += own
        return entry

    # --- calling ---

    def _run(self, function: HandlerFunction, *arguments: Any) -> Any:
        result = function.function(*arguments)
        return self._wait_for(result) if function.kind is CallKind.ASYNC else result

    def _wait_for(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop).result()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _decoded(function: HandlerFunction, work: RemoteWork, payload: Body) -> Any:
    """Return what the handler takes; an ERROR may have no payload, as in `runner.py`."""
    if work.message.type is MessageType.ERROR and not payload:
        return decode_any(b"") if function.decode is decode_any else None
    # Decoders read bytes, or large ones where they lie.
    return function.decode(payload if isinstance(payload, SharedBytes) else bytes(payload))  # type: ignore[arg-type]


def _parts(body: Body, sizes: Sequence[int]) -> list[Body]:
    """Return the pieces of these sizes."""
    if len(sizes) == 1:
        return [body]
    parts: list[Body] = []
    begin, view = 0, memoryview(body)
    for size in sizes:
        parts.append(view[begin : begin + size])
        begin += size
    return parts
