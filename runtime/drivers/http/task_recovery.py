"""Finishes tasks whose driver is gone, by reading the workflow's answers from the stream.

Started with every task that is pending when a driver starts, and with those of other drivers that somebody asks for.
Whether the driver of such a task is still alive does not matter: both find the same answer, and the first write counts.
A task whose request never got into the stream is sent again, under the same id.
"""

import asyncio
import logging
from collections.abc import Sequence

from runtime import payload, wire
from runtime.bus.stored import Scan, StoredMessage
from runtime.clock import Clock
from runtime.drivers.base import RestrictedInferenceProcess
from runtime.drivers.http.task_record import TaskRecord
from runtime.drivers.http.task_store import Kept, TaskStore
from runtime.errors import BusClosedError, BusError, DecodeError, KrtError
from runtime.message import Message, MessageType, ReplyOutcome
from runtime.spec import names

log = logging.getLogger(__name__)

# How far the clocks of a driver and the server may differ, in nanoseconds.
CLOCK_SKEW_NS = 60 * 10**9
# Seconds that one look for new answers waits, and between two attempts while NATS is away.
LOOK_S = 0.5
RETRY_S = 2.0


class TaskRecovery:
    """Follows lost tasks in one scan of the stream; without a lost task nothing is read."""

    def __init__(self, inference: RestrictedInferenceProcess, store: TaskStore, clock: Clock) -> None:
        self._inference = inference
        self._store = store
        self._clock = clock
        self._lost: dict[str, _Lost] = {}
        # Set when a task was added: the scan begins anew, early enough for it.
        self._added = asyncio.Event()
        entrypoint = names.entrypoint_subject(inference.stream)
        self._entrypoint = entrypoint
        self._subjects = (entrypoint, names.partition_subject(entrypoint, "*"), *inference.output_subjects)

    def follow(self, task: Kept) -> "asyncio.Future[None]":
        """Find the answer of a task; returns what is done once its record holds its end."""
        lost = self._lost.get(task.record.id)
        if lost is None:
            lost = self._lost[task.record.id] = _Lost(task)
            self._added.set()
        return lost.ended

    def forget(self, task_id: str) -> None:
        """Leave a task that has been cancelled."""
        if (lost := self._lost.pop(task_id, None)) is not None and not lost.ended.done():
            lost.ended.set_result(None)

    async def run(self) -> None:
        """Follow what is lost, until cancelled."""
        while True:
            if not self._lost:
                self._added.clear()
                await self._added.wait()
            try:
                await self._read_on()
            except BusClosedError:
                raise
            except BusError as error:
                log.warning("lost tasks cannot be looked for: %s", error, extra={"action": "task-recovery"})
                await self._clock.sleep(RETRY_S)

    async def _read_on(self) -> None:
        """Read until every task has ended, or one is added that needs an earlier start."""
        self._added.clear()
        since_ns = min(lost.task.record.created_ms for lost in self._lost.values()) * 1_000_000 - CLOCK_SKEW_NS
        scan = await self._inference.bus.scan(self._inference.stream, subjects=self._subjects, since_ns=since_ns)
        try:
            while self._lost and not self._added.is_set():
                await self._end_all(await self._next_answers(scan))
                await self._end_overdue()
                if scan.left == 0:
                    self._send_missing()
        finally:
            await scan.close()

    async def _next_answers(self, scan: Scan) -> list[tuple["_Lost", TaskRecord]]:
        found = []
        for stored in await scan.read(wait_s=LOOK_S):
            if (answer := self._answer_of(stored)) is not None:
                found.append(answer)
        return found

    def _answer_of(self, stored: StoredMessage) -> "tuple[_Lost, TaskRecord] | None":
        """Return the lost task that a message ends, if it does."""
        try:
            message = wire.decode(stored.data, takes_claims=True)
        except DecodeError:  # somebody else's; its node has made it a dead letter
            return None
        lost = self._lost.get(message.request_id)
        if lost is None:
            return None
        if names.unpartitioned_subject(stored.subject) == self._entrypoint:
            lost.is_stored = True
            return None
        return lost, _end_of(lost.task.record, message)

    async def _end_all(self, answers: Sequence[tuple["_Lost", TaskRecord]]) -> None:
        for lost, ended in answers:
            if lost.task.record.id in self._lost:  # a second answer changes nothing
                await self._store.end(lost.task, ended)
                self.forget(ended.id)

    async def _end_overdue(self) -> None:
        now_ms = self._store.now_ms()
        overdue = [lost for lost in self._lost.values() if lost.task.record.deadline_ms <= now_ms]
        await self._end_all([(lost, lost.task.record.timed_out()) for lost in overdue])

    def _send_missing(self) -> None:
        """Send what did not get into the stream; its answer is read there like the others'."""
        for lost in self._lost.values():
            if not lost.is_stored:
                lost.is_stored = True
                self._send(lost.task.record)

    def _send(self, record: TaskRecord) -> None:
        timeout_s = (record.deadline_ms - self._store.now_ms()) / 1000
        try:
            self._inference.predict(
                payload.decode_value(record.payload),
                record.state_id,
                timeout=max(timeout_s, LOOK_S),
                headers=record.headers,
                request_id=record.id,
            )
        except (KrtError, ValueError) as error:
            log.warning("task %s cannot be sent again: %s", record.id, error, extra={"action": "task-recovery"})


class _Lost:
    """A task that is followed. is_stored: its request is in the stream, or was sent there again."""

    __slots__ = ("ended", "is_stored", "task")

    def __init__(self, task: Kept) -> None:
        self.task = task
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_stored = False


def _end_of(record: TaskRecord, answer: Message) -> TaskRecord:
    if answer.type is MessageType.ERROR:
        outcome = answer.outcome or ReplyOutcome.FAILED
        return record.ended(outcome=outcome, detail=answer.error, node=answer.from_node)
    if answer.claim is not None:
        detail = f"the result cannot be kept: its {answer.claim.size:,} bytes are more than a message holds"
        return record.ended(outcome=ReplyOutcome.FAILED, detail=detail)
    return record.ended(outcome=ReplyOutcome.OK, payload=answer.payload)
