"""What a node does for the handler in one of its worker processes: the handler's context asks, the node's own answers.

The worker's side is `isolated_services.py`; it has no connection of its own. Outputs, documents, configuration and
objects are those that the handler would have in the node's own process.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType

from runtime.bus.base import Confirmation
from runtime.errors import ContextError
from runtime.log import FIELDS
from runtime.message import MessageType
from runtime.node.batching_limit import TimeLimit
from runtime.node.context import Services
from runtime.node.isolation_frames import DONE, Body, Call, CallAnswer, Head, as_payload
from runtime.node.isolation_objects import ObjectDesk
from runtime.node.work import Work
from runtime.stores.base import Point

NO_WORKS: Mapping[int, Work] = MappingProxyType({})


class ServiceDesk:
    """Answers the calls of one worker. What it has is of the request that the worker works on."""

    def __init__(self) -> None:
        self._services: Services | None = None
        # The messages that the handler has, by the numbers that the request has given them; and the limit of a batch.
        self._works: Mapping[int, Work] = {}
        self._limit: TimeLimit | None = None
        # Outputs that are being handed over.
        self._emitting: set[asyncio.Task[object]] = set()
        self._objects = ObjectDesk()
        self._answers: dict[str, Callable[[Services, Head, Body], Awaitable[CallAnswer]]] = {
            Call.EMIT: self._emit,
            Call.SAVE: self._save,
            Call.FIND: self._find,
            Call.CONFIGURATION_GET: self._get_value,
            Call.CONFIGURATION_SET: self._set_value,
            Call.CONFIGURATION_DELETE: self._delete_value,
            **self._objects.answers,
        }
        self._notes: dict[str, Callable[[Head], None]] = {
            Call.LOG: self._log,
            Call.POINT: self._save_point,
            Call.PROGRESS: self._progress,
            Call.RESTART: self._restart,
        }

    @contextlib.asynccontextmanager
    async def serving(
        self, services: Services, works: Mapping[int, Work] = NO_WORKS, limit: TimeLimit | None = None
    ) -> AsyncIterator[None]:
        """Do meanwhile what the handler asks for. At the end no output of its messages is on its way to the publisher.

        Those that have begun are waited for, or given up with a request that has failed: they would take place behind
        the end of their message, which waits for every output that it knows of.
        """
        self._services, self._works, self._limit = services, works, limit
        try:
            yield
        except BaseException:
            for task in self._emitting:
                task.cancel()
            raise
        finally:
            self._works, self._limit = NO_WORKS, None
            await asyncio.gather(*self._emitting, return_exceptions=True)

    async def answer(self, head: Head, body: Body) -> CallAnswer:
        """Do what the handler asks for, and return what it gets; raises what its context is to raise."""
        return await self._answers[head["call"]](self._present(), head, body)

    def note(self, head: Head) -> None:
        """Take note of what needs no answer."""
        self._notes[head["call"]](head)

    async def close(self) -> None:
        """Give up what the worker has left open."""
        await self._objects.close()

    def _present(self) -> Services:
        if self._services is None:
            raise ContextError("the context is only available from init to teardown")
        return self._services

    async def _emit(self, services: Services, head: Head, body: Body) -> CallAnswer:
        # A task that the handler has left behind may speak of a message that is through.
        work, task = self._works.get(head["message"]), asyncio.current_task()
        if work is None or task is None:
            raise ContextError("ctx.send_output is only available while a message is handled")
        self._emitting.add(task)
        task.add_done_callback(self._emitting.discard)
        if head["headers"] is not None:
            work.set_headers(head["headers"])
        kind, stored = MessageType(head["type"]), Confirmation() if head["stored"] else None
        await services.outputs.emit(
            work, as_payload(body), head["channel"], kind=kind, last=head["last"], stored=stored
        )
        if stored is not None:
            await stored
        return DONE

    async def _save(self, services: Services, head: Head, body: Body) -> CallAnswer:
        return None, await services.document_client.forward(bytes(body), head["headers"], head["timeout_s"])

    async def _find(self, services: Services, head: Head, body: Body) -> CallAnswer:
        return await services.documents.find(head["collection"], head["query"], limit=head["limit"]), b""

    async def _get_value(self, services: Services, head: Head, body: Body) -> CallAnswer:
        return await services.configuration.get(head["key"], head["scope"]), b""

    async def _set_value(self, services: Services, head: Head, body: Body) -> CallAnswer:
        await services.configuration.set(head["key"], head["value"], head["scope"])
        return DONE

    async def _delete_value(self, services: Services, head: Head, body: Body) -> CallAnswer:
        await services.configuration.delete(head["key"], head["scope"])
        return DONE

    def _log(self, head: Head) -> None:
        fields = {name: value for name, value in head["fields"].items() if name in FIELDS}
        logging.getLogger(head["logger"]).log(head["level"], "%s", head["text"], extra=fields)

    def _save_point(self, head: Head) -> None:
        self._present().points.save(Point(**head["point"]))

    def _progress(self, head: Head) -> None:
        work = self._works.get(head["message"])
        if work is not None:
            work.progress(self._present().clock.monotonic())

    def _restart(self, head: Head) -> None:
        if self._limit is not None:
            self._limit.restart()
