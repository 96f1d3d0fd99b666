"""One worker process of a node, with the channels that lead to it. Its own side is `isolated.py`."""

import itertools
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from runtime.children import describe_exit
from runtime.errors import WorkerEndedError
from runtime.handover import Handover
from runtime.node.batching_context import BatchContext
from runtime.node.context import Context, Services
from runtime.node.isolation_calls import CallServer
from runtime.node.isolation_desk import ServiceDesk
from runtime.node.isolation_failures import raised
from runtime.node.isolation_frames import JOB, MESSAGE_FIELDS, Body, Frames, Head, Request, as_payload
from runtime.node.work import Work
from runtime.payload import EncodedPayload
from runtime.workers import Worker

log = logging.getLogger(__name__)

# Seconds that a worker has to end by itself once nothing is asked of it any more.
CLOSE_GRACE_S = 1.0


class HandlerWorker:
    """A process that has the handler, and answers for one call of it at a time."""

    def __init__(self, number: int, worker: Worker, frames: Frames, desk: ServiceDesk, calls: CallServer) -> None:
        """Made by `start`."""
        self.number = number
        # It has handled a message, so that another life of it is worth a try at once.
        self.has_answered = False
        # It was ended from here, which says nothing about the handler.
        self.was_killed = False
        self._worker = worker
        self._frames = frames
        self._desk = desk
        self._calls = calls
        self._messages = itertools.count(1)

    @classmethod
    async def start(cls, number: int, told: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[Self, Head]:
        """Start a process and have it import the handler; return it with what the handler is.

        told: what `isolated.py` is to know at the start. Raises HandlerLoadError, WorkerEndedError, OSError.
        """
        handover, theirs = Handover.pair()
        ours, calls_end = socket.socketpair()
        try:
            with theirs, calls_end:
                worker = await Worker.start(
                    JOB,
                    on_line=lambda line: log.info("%s", line, extra={"action": "printed"}),
                    environment=environment,
                    pass_fds=[theirs.fileno(), calls_end.fileno()],
                )
        except BaseException:
            handover.close()
            ours.close()
            raise
        frames, desk = Frames(handover), ServiceDesk()
        started = cls(number, worker, frames, desk, await CallServer.open(ours, desk, frames))
        try:
            answer, _ = await started._ask({"do": Request.START, **told})
        except BaseException:
            await started.close(0)
            raise
        return started, answer

    @property
    def is_alive(self) -> bool:
        return self._worker.is_alive

    @property
    def is_busy(self) -> bool:
        """Whether it works on something, of which perhaps nobody wants to know any more."""
        return self._worker.is_busy

    async def initialise(self, services: Services) -> None:
        """Run the handler's `init`; raises what that raises."""
        async with self._desk.serving(services):
            await self._ask({"do": Request.INIT, "limit_bytes": services.document_client.limit_bytes})

    async def tear_down(self, services: Services) -> None:
        """Run the handler's `teardown`; raises what that raises."""
        async with self._desk.serving(services):
            await self._ask({"do": Request.TEARDOWN})

    async def handle(self, context: Context, data: Any) -> Any:
        """Call the handler with a message, or with a list of them, and return what it returns, encoded.

        data: payloads. Cancelling does not reach the handler: the worker is busy until it is killed. Raises what the
        handler raises, WorkerEndedError.
        """
        batch = context if isinstance(context, BatchContext) else None
        payloads: Sequence[Body] = [payload or b"" for payload in (data if batch else [data])]
        limit = batch._time_limit if batch else None
        works = {next(self._messages): work for work in works_of(context)}
        now_s = context._services.clock.monotonic()
        request: Head = {
            "do": Request.HANDLE,
            "messages": [_facts(number, work, now_s) for number, work in works.items()],
            "sizes": [len(payload) for payload in payloads],
            "batch": batch is not None,
            "left_s": limit.left_s if limit else None,
        }
        async with self._desk.serving(context._services, works, limit):
            answer, content = await self._ask(request, *payloads)
        self.has_answered = True
        for number in answer["early_exits"]:
            works[number].early_exit = True
        for number, headers in answer["headers"]:
            works[number].set_headers(headers)
        results = list(_results(answer["results"], content))
        if batch is not None:
            return results
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def kill(self) -> None:
        """End the process now, with whatever it works on."""
        self.was_killed = True
        self._worker.kill()

    async def wait(self) -> str:
        """Return how the process has ended, once it has."""
        exit_code = await self._worker.wait()
        await self._release()
        return describe_exit(exit_code)

    async def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End the process, by force after `grace_s` seconds."""
        try:
            await self._worker.close(grace_s)
        finally:
            await self._release()

    async def _ask(self, head: Head, *body: Body) -> tuple[Head, Body]:
        """Return the answer to a request, or raise the failure that it tells of."""
        try:
            frame = await self._worker.ask(self._frames.pack(head, *body))
        except WorkerEndedError as error:
            raise _ended(head["do"], error) from None
        answer, content = self._frames.unpack(frame)
        if "failure" in answer:
            raise raised(answer["failure"])
        return answer, content

    async def _release(self) -> None:
        await self._calls.close()
        await self._desk.close()
        self._frames.close()


_DOING = {
    Request.START: "while it imported the handler",
    Request.INIT: "in the handler's init",
    Request.HANDLE: "while it handled the message",
    Request.TEARDOWN: "in the handler's teardown",
}


def _ended(request: Request, error: WorkerEndedError) -> WorkerEndedError:
    how = describe_exit(error.exit_code)
    if how == "SIGKILL":
        how += ", which the kernel sends when memory has run out"
    return WorkerEndedError(f"the worker process has ended {_DOING[request]}, with {how}", exit_code=error.exit_code)


def works_of(context: Context) -> list[Work]:
    """Return the messages of a call, in their order."""
    contexts = context.items if isinstance(context, BatchContext) else (context,)
    return [each._work for each in contexts if each._work is not None]


def _facts(number: int, work: Work, now_s: float) -> Head:
    """Return what a context tells of its message."""
    delivery, message = work.delivery, work.message
    return {
        "number": number,
        "subject": delivery.subject,
        "sequence": delivery.sequence,
        "attempt": delivery.attempt,
        "time_ns": delivery.time_ns,
        "origin": work.origin,
        "redrive": work.redrive,
        "timeout_s": work.timeout_s,
        "left_s": None if work.ends_s is None else work.ends_s - now_s,
        "path": work.path,
        "message": {name: getattr(message, name) for name in MESSAGE_FIELDS},
    }


def _results(told: Sequence[Head], content: Body) -> Iterator[Any]:
    """Yield the result of each message: None, a payload, a list of them, an outcome or a failure."""
    begin = 0
    rest = memoryview(content)
    for entry in told:
        payloads: list[Any] = []
        for size in entry["sizes"]:
            payloads.append(EncodedPayload(as_payload(rest[begin : begin + size])))
            begin += size
        if "failure" in entry:
            payloads.append(raised(entry["failure"]))
        yield payloads if entry["many"] else next(iter(payloads), None)
