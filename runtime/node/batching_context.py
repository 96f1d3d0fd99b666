"""The context of a call with several messages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from runtime.errors import ContextError
from runtime.node.batching_limit import TimeLimit
from runtime.node.context import Context, Database, Services
from runtime.node.work import Work


class BatchContext(Context):
    """What `handler(ctx, data)` receives for a list of messages: the process's members, and each message's context.

    `ctx.items[i]` is the context of `data[i]`, with everything that belongs to one message: its request id, its
    documents, its further outputs. Asking the batch for these raises ContextError. Attributes that the handler assigns
    live for this call.
    """

    def __init__(self, services: Services, items: Sequence[Context], limit: TimeLimit) -> None:
        super().__init__(services, None)
        own = vars(self)
        own["_items"] = tuple(items)
        own["_limit"] = limit

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise AttributeError(f"ctx.{name} is read-only; choose another name for your own attribute")
        vars(self)[name] = value

    def __repr__(self) -> str:
        return f"<ctx {self._services.node} batch of {len(self.items)}>"

    @property
    def items(self) -> tuple[Context, ...]:
        """The contexts of the messages, in the order of the data."""
        items: tuple[Context, ...] = vars(self)["_items"]
        return items

    @property
    def db(self) -> Database:
        return _BatchDatabase(self)

    @property
    def deadline(self) -> datetime | None:
        """When this call has to be done: the nearest of the requests' deadlines and the node's timeout; or None."""
        ends = [item.deadline for item in self.items]
        left_s = self._time_limit.left_s
        if left_s is not None:
            ends.append(datetime.fromtimestamp(self._services.clock.time_ns() / 1e9 + left_s, UTC))
        return min((end for end in ends if end is not None), default=None)

    def progress(self, note: str | None = None) -> None:
        """Say that the work goes on: the call's timeout and the ack waits start anew. Thread-safe."""
        for item in self.items:
            item.progress()
        self._services.loop.call_soon_threadsafe(self._time_limit.restart)
        if note:
            self.logger.debug("progress: %s", note)

    @property
    def _time_limit(self) -> TimeLimit:
        limit: TimeLimit = vars(self)["_limit"]
        return limit

    def _current(self, member: str) -> Work:
        raise _of_one_message(member)


class _BatchDatabase(Database):
    """`ctx.db` of a batch: `find` alone, for a document belongs to the message that makes its id."""

    async def _save(self, coll: str, data: dict[str, Any], what: str, key: str) -> str | int:
        raise _of_one_message("db.save" if what == "data" else "prediction.save")


def _of_one_message(member: str) -> ContextError:
    return ContextError(f"ctx.{member} belongs to one message of the batch; use ctx.items[i].{member}")
