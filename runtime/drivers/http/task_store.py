"""The bucket of tasks: reads with expiry, and writes that the first one wins."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from runtime.bus.base import Bus, KeyValue
from runtime.clock import Clock
from runtime.drivers.http.task_record import TaskRecord
from runtime.errors import BusUnavailableError, DecodeError, MessageTooLargeError, NotFoundError, RevisionError
from runtime.message import ReplyOutcome
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds after which the server drops an entry that nobody has removed: longer than any task with its result.
MAX_KEPT_S = 3 * 86_400.0
# Seconds between two attempts to write what a task ended with: doubled, from the first to the last.
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0


class Kept(NamedTuple):
    """A record with its revision, for a write that only counts if nobody else has written."""

    record: TaskRecord
    revision: int


class TaskStore:
    """The records of one workflow's tasks, which all of its drivers share. Opened by its first use."""

    def __init__(self, bus: Bus, stream: str, kept_s: Callable[[], float], clock: Clock) -> None:
        """kept_s: how long a result is kept from its end; asked at every end."""
        self._bus = bus
        self._stream = stream
        self._kept_s = kept_s
        self._clock = clock
        self._opened: KeyValue | None = None

    def now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    async def create(self, record: TaskRecord) -> Kept:
        """Raises BusError, MessageTooLargeError."""
        bucket = await self._bucket()
        return Kept(record, await bucket.create(record.id, record.encode(self._bus.max_payload_bytes)))

    async def read(self, task_id: str) -> Kept | None:
        """Return a task; None for one that is unknown or expired. Raises BusUnavailableError, DecodeError."""
        try:
            entry = await (await self._bucket()).get(task_id)
        except NotFoundError:
            return None
        record = TaskRecord.decode(entry.value)
        return None if record.is_expired(self.now_ms()) else Kept(record, entry.revision)

    async def end(self, task: Kept, ended: TaskRecord) -> TaskRecord | None:
        """Write how a task ended; None when somebody else has, or the task is gone. Raises BusUnavailableError."""
        ended = ended.kept(self.now_ms() + round(self._kept_s() * 1000))
        bucket = await self._bucket()
        try:
            data = ended.encode(self._bus.max_payload_bytes)
        except MessageTooLargeError as error:
            ended = ended.ended(outcome=ReplyOutcome.FAILED, detail=f"the result cannot be kept: {error}")
            data = ended.encode(self._bus.max_payload_bytes)
        try:
            await bucket.update(task.record.id, data, task.revision)
        except RevisionError:
            return None
        return ended

    async def end_surely(self, task: Kept, ended: TaskRecord) -> TaskRecord | None:
        """Write as `end` does, for as long as it takes until NATS is there."""
        delay_s = FIRST_RETRY_S
        while True:
            try:
                return await self.end(task, ended)
            except BusUnavailableError as error:
                log.warning("the end of task %s is not written yet: %s", task.record.id, error)
            await self._clock.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)

    async def pending(self) -> list[Kept]:
        """Return every task that has not ended, and remove those that have expired. Raises BusError."""
        bucket = await self._bucket()
        found = []
        for key in await bucket.keys():
            try:
                task = await self.read(key)
            except DecodeError as error:
                log.warning("task %s is left alone: %s", key, error)
                continue
            if task is None:
                await bucket.delete(key)
            elif task.record.is_pending:
                found.append(task)
        return found

    async def delete(self, task_id: str) -> None:
        await (await self._bucket()).delete(task_id)

    async def _bucket(self) -> KeyValue:
        if self._opened is None:
            placement = await self._bus.stream_placement(self._stream)
            name = names.tasks_bucket(self._stream)
            self._opened = await self._bus.key_value(name, create=True, replicas=placement.replicas, ttl_s=MAX_KEPT_S)
        return self._opened
