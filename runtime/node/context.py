"""The object that a handler receives: one per delivery, over an immutable request.

Members work as the table of the design page "Wire and context" says; the quoted error texts are fixed. Attributes that
`init` assigns are seen by every later delivery, those that a handler assigns live for that delivery.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import any_pb2

from runtime.bus.base import Confirmation
from runtime.clock import Clock
from runtime.errors import ContextError, QueryError, StoreError
from runtime.message import Message, MessageType
from runtime.node.configuration import Configuration
from runtime.node.object_store import ObjectStore
from runtime.node.work import Outputs, Work
from runtime.payload import encode_result
from runtime.spec import hops
from runtime.stores.base import DocumentStore, PointStore
from runtime.stores.documents import DocumentClient, derive_id
from runtime.stores.measurement import PRECISION_MS, PRECISION_NS, PRECISION_S, PRECISION_US, build_point
from runtime.stores.prediction import COLLECTION, ERR_MISSING_VALUES, ERR_NEW_LABELS, build_prediction

_MISSING: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all deliveries of one process share."""

    workflow: str
    version_id: str
    version: str
    node: str
    base_path: Path
    clock: Clock
    loop: asyncio.AbstractEventLoop
    documents: DocumentStore
    document_client: DocumentClient
    points: PointStore
    configuration: Configuration
    object_store: ObjectStore
    outputs: Outputs
    logger: logging.Logger
    values: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


class _MessageLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds its own fields to those that the user gives; the standard one drops the user's before Python 3.13."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class MissingValueError(AttributeError, KeyError):
    """`ctx.get` of a key that was never set."""

    def __str__(self) -> str:
        return str(self.args[0])


class Context:
    """What `handler(ctx, data)`, `init(ctx)` and `teardown(ctx)` receive."""

    __slots__ = ("__dict__", "_services", "_work")
    _services: Services
    _work: Work | None

    def __init__(self, services: Services, work: Work | None) -> None:
        _set_services(self, services)
        _set_work(self, work)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._services.attributes[name]
        except KeyError:
            known = ", ".join(sorted(self._services.attributes)) or "none"
            raise AttributeError(f"ctx has no member '{name}' (attributes assigned in init: {known})") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise AttributeError(f"ctx.{name} is read-only; choose another name for your own attribute")
        if self._work is None:
            self._services.attributes[name] = value
        else:
            vars(self)[name] = value

    def __repr__(self) -> str:
        return f"<ctx {self._services.node} {self._work.delivery if self._work else 'outside of a message'}>"

    # --- the process ---

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logger `<version>-<node>`; records carry the request id and the attempt."""
        extra: dict[str, object] = {}
        if self._work is not None:
            extra = {"request_id": self._work.message.request_id, "attempt": self._work.delivery.attempt}
        return _MessageLogger(self._services.logger, extra)

    def path(self, relative: str) -> str:
        """Return a path below the workflow's folder; an absolute argument comes back as it is."""
        return str(self._services.base_path / relative)

    def set(self, key: str, value: Any) -> None:
        """Keep a value in this process, for all its deliveries; it is not persisted."""
        self._services.values[key] = value

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """Return what `set` has kept. Raises an AttributeError that is a KeyError too, unless a default is given."""
        value = self._services.values.get(key, default)
        if value is _MISSING:
            stored = ", ".join(sorted(map(str, self._services.values))) or "nothing"
            raise MissingValueError(f"ctx has no value for '{key}'; stored: {stored}")
        return value

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Wait for an awaitable member from a plain `def` handler's thread, and return its result."""
        if _on_a_loop():
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise ContextError("use 'await' in an async handler; ctx.run is for plain 'def' handlers")
        return asyncio.run_coroutine_threadsafe(_as_coroutine(awaitable), self._services.loop).result()

    @property
    def db(self) -> "Database":
        return Database(self)

    @property
    def measurement(self) -> "Measurement":
        return Measurement(self._services)

    @property
    def prediction(self) -> "Prediction":
        return Prediction(self)

    @property
    def configuration(self) -> Configuration:
        return self._services.configuration

    @property
    def object_store(self) -> ObjectStore:
        return self._services.object_store

    @property
    def state(self) -> Any:
        """The state of this message's state id, to be changed in place; kept if the handler succeeds."""
        holder = self._current("state").state
        if holder is None:
            raise ContextError(f"node '{self._services.node}' has no state: add 'state:' to its YAML")
        return holder.value

    # --- the message ---

    @property
    def request_id(self) -> str:
        return self._message("request_id").request_id

    def get_request_id(self) -> str:
        return self._message("get_request_id").request_id

    @property
    def from_node(self) -> str:
        return self._message("from_node").from_node

    @property
    def headers(self) -> Mapping[str, str]:
        return MappingProxyType(dict(self._message("headers").headers))

    @property
    def error(self) -> str:
        """Text of an incoming ERROR, or ""."""
        return self._message("error").error

    @property
    def attempt(self) -> int:
        """Number of this delivery, from 1."""
        return self._current("attempt").delivery.attempt

    @property
    def redrive(self) -> int:
        """How often this message was a dead letter, and was redriven."""
        return self._current("redrive").redrive

    @property
    def sequence(self) -> int:
        """Number of this message in its stream; that of the first one when it was redriven."""
        return self._current("sequence").origin

    @property
    def deadline(self) -> datetime | None:
        """When this delivery has to be done: the request's deadline or the node's timeout, the nearer; or None."""
        work = self._current("deadline")
        ends = [work.message.deadline_ms / 1000] if work.message.deadline_ms else []
        if work.ends_s is not None:
            clock = self._services.clock
            ends.append(clock.time_ns() / 1e9 + work.ends_s - clock.monotonic())
        return datetime.fromtimestamp(min(ends), UTC) if ends else None

    def is_message_ok(self) -> bool:
        return self._message("is_message_ok").type is MessageType.OK

    def is_message_error(self) -> bool:
        return self._message("is_message_error").type is MessageType.ERROR

    def is_message_early_reply(self) -> bool:
        return self._message("is_message_early_reply").type is MessageType.EARLY_REPLY

    def is_message_early_exit(self) -> bool:
        return self._message("is_message_early_exit").type is MessageType.EARLY_EXIT

    def derive_id(self, purpose: str) -> str:
        """Return an id (24 hex digits) that is the same for every delivery of this message: who gets it knows a repeat.

        A redriven message has another one.
        """
        work = self._current("derive_id")
        part = f"{purpose}\0{work.redrive}"
        services = self._services
        place = hops.place(work.origin, work.path)
        return derive_id(services.outputs.stream, place, work.message.request_id, services.node, part)

    def progress(self, note: str | None = None) -> None:
        """Say that the work goes on: the node's timeout and the ack wait start anew. Thread-safe."""
        work = self._current("progress")
        self._services.loop.call_soon_threadsafe(work.progress, self._services.clock.monotonic())
        if note:
            self.logger.debug("progress: %s", note)

    # --- outputs ---

    async def send_output(self, message: Any, channel: str = "") -> None:
        """Send an output now; returns when the in-flight window has taken it. A failed publish fails the delivery."""
        work = self._current("send_output")
        await self._services.outputs.emit(work, encode_result(message), channel)

    async def send_any(self, message: any_pb2.Any, channel: str = "") -> None:
        """Send an `Any` as it is."""
        if not isinstance(message, any_pb2.Any):
            raise TypeError(f"ctx.send_any takes a google.protobuf.Any, not {type(message).__name__}")
        await self.send_output(message, channel)

    async def send_early_reply(self, message: Any, channel: str = "") -> None:
        """Answer the caller now and go on; returns once the reply is stored."""
        await self._send_stored("send_early_reply", message, channel, MessageType.EARLY_REPLY)

    async def early_reply(self, message: Any) -> None:
        await self._send_stored("early_reply", message, "", MessageType.EARLY_REPLY)

    async def reply(self, message: Any) -> None:
        await self._send_stored("reply", message, "", MessageType.EARLY_REPLY)

    async def send_early_exit(self, message: Any, channel: str = "") -> None:
        """Answer the caller now, as the end of the request; returns once it is stored."""
        await self._send_stored("send_early_exit", message, channel, MessageType.EARLY_EXIT)

    def set_header(self, name: str, value: str) -> None:
        """Give everything that is sent from now on a header, what is returned included, beside those of the input."""
        work = self._current("set_header")
        if not isinstance(name, str) or not name or not isinstance(value, str):
            raise TypeError(f"ctx.set_header takes a name and a text, not {name!r} and a {type(value).__name__}")
        if work.message.first is not None:
            raise ContextError("ctx.set_header: KRE's first wire version has no headers")
        work.set_headers({**work.message.headers, name: value})

    def early_exit(self) -> None:
        """Send what the handler returns to the caller as the end of the request."""
        self._current("early_exit").early_exit = True

    async def _send_stored(self, member: str, message: Any, channel: str, kind: MessageType) -> None:
        work = self._current(member)
        stored = Confirmation()
        await self._services.outputs.emit(work, encode_result(message), channel, kind=kind, stored=stored)
        await stored

    def _current(self, member: str) -> Work:
        if self._work is None:
            raise ContextError(f"ctx.{member} is only available while a message is handled")
        return self._work

    def _message(self, member: str) -> Message:
        return self._current(member).message


# Past __setattr__, which is for the user's attributes.
_set_services = vars(Context)["_services"].__set__
_set_work = vars(Context)["_work"].__set__


class Database:
    """`ctx.db`."""

    def __init__(self, ctx: Context) -> None:
        self._services: Services = ctx._services
        self._work: Work | None = ctx._work

    async def save(self, coll: str, data: dict[str, Any], *, key: str = "") -> str | int:
        """Store a document through the writer; returns its id once it is durable. A redelivery does not double it.

        key: what tells it from the message's other documents; without one its number does, and then a redelivery has to
        save the same documents in the same order.
        """
        return await self._save(coll, data, "data", key)

    async def find(self, coll: str, query: dict[str, Any], *, limit: int = 0) -> list[dict[str, Any]]:
        """Return the matching documents, `_id` included, keys in their order."""
        if not isinstance(coll, str) or not coll:
            raise ContextError(f"[ctx.db.find] invalid 'collection'='{coll}', must be a nonempty string")
        if not isinstance(query, dict) or not query:
            raise ContextError(f"[ctx.db.find] invalid 'query'='{query}', must be a nonempty dict")
        try:
            return await self._services.documents.find(coll, query, limit=limit)
        except QueryError:
            raise
        except StoreError as error:
            raise type(error)(f"[ctx.db.find] error getting data from MongoDB: {error}") from error

    async def _save(self, coll: str, data: dict[str, Any], what: str, key: str) -> str | int:
        work = self._work
        if work is None:
            return await self._services.document_client.save(coll, data, what=what)
        part: int | str = f"key {key}" if key else work.saves
        work.saves += not key
        place = hops.place(work.origin, work.path)
        own_id = derive_id(self._services.outputs.stream, place, work.message.request_id, self._services.node, part)
        return await self._services.document_client.save(coll, data, document_id=own_id, what=what)


class Prediction:
    """`ctx.prediction`."""

    ERR_MISSING_VALUES = ERR_MISSING_VALUES
    ERR_NEW_LABELS = ERR_NEW_LABELS

    def __init__(self, ctx: Context) -> None:
        self._services: Services = ctx._services
        self._database = ctx.db

    async def save(
        self,
        predicted_value: str = "",
        true_value: str = "",
        extra: Any = None,
        utcdate: datetime | None = None,
        error: str = "",
        *,
        key: str = "",
    ) -> None:
        """Store one prediction beside its true value, in the collection `classificationMetrics`.

        key: as of `ctx.db.save`.
        """
        document = build_prediction(
            predicted_value,
            true_value,
            extra,
            utcdate,
            error,
            version_id=self._services.version_id,
            version=self._services.version,
            now_ns=self._services.clock.time_ns(),
        )
        await self._database._save(COLLECTION, document, "metric", key)


class Measurement:
    """`ctx.measurement`."""

    PRECISION_S, PRECISION_MS, PRECISION_US, PRECISION_NS = PRECISION_S, PRECISION_MS, PRECISION_US, PRECISION_NS

    def __init__(self, services: Services) -> None:
        self._services = services

    def save(
        self,
        measurement: str,
        fields: dict[str, Any],
        tags: dict[str, Any] | None = None,
        time: datetime | None = None,
        precision: str = PRECISION_NS,
    ) -> None:
        """Queue one point; never waits for the store and never fails for its sake."""
        services = self._services
        runtime_tags = {"version": services.version, "workflow": services.workflow, "node": services.node}
        services.points.save(
            build_point(
                measurement, fields, tags, time, precision, runtime_tags=runtime_tags, now_ns=services.clock.time_ns()
            )
        )


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
