"""Tasks: requests whose result is kept for a time and fetched later, from any driver of the workflow.

A task is written down before its id is given out. When its driver ends before the answer has come, another one finishes
it (`task_recovery.py`).
"""

import asyncio
import logging
from collections.abc import Callable

from runtime import payload
from runtime.clock import Clock
from runtime.drivers.base import PredictionFuture, RestrictedInferenceProcess
from runtime.drivers.http.admission import Slot
from runtime.drivers.http.request import Call
from runtime.drivers.http.task_record import CANCELLED, TaskRecord
from runtime.drivers.http.task_recovery import TaskRecovery
from runtime.drivers.http.task_store import Kept, TaskStore
from runtime.errors import BusClosedError, BusError, PredictionError
from runtime.message import ReplyOutcome, new_request_id
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds between two looks for results that have expired.
SWEEP_S = 30.0
# Seconds between two attempts to find the pending tasks, while NATS is away or the workflow is not deployed.
RETRY_S = 5.0


class Tasks:
    """The tasks that this driver has taken, and the way to all others."""

    def __init__(self, inference: RestrictedInferenceProcess, kept_s: Callable[[], float], clock: Clock) -> None:
        self._inference = inference
        self._clock = clock
        self._store = TaskStore(inference.bus, inference.stream, kept_s, clock)
        self._recovery = TaskRecovery(inference, self._store, clock)
        self._own: dict[str, _OwnTask] = {}
        # Id -> when the result of a task of ours expires, unix milliseconds.
        self._expiries: dict[str, int] = {}
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Finish lost tasks and remove expired results, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recovery.run(), name="lost tasks")
            await self._find_lost()
            while True:
                await self._clock.sleep(SWEEP_S)
                await self._sweep()

    def stop_waiting(self) -> None:
        """Let every `read` that waits return now."""
        self._stopping.set_result(None)

    async def close(self) -> None:
        """Let go of what is pending: the workflow goes on with it, and another driver takes its answer."""
        finishing = [own.finishing for own in self._own.values()]
        for task in finishing:
            task.cancel()
        await asyncio.gather(*finishing, return_exceptions=True)

    async def submit(self, call: Call, slot: Slot) -> str:
        """Take a task that keeps its slot until it has ended, and return its id.

        Raises what `predict` raises at once, and BusError when it cannot be written down; the task is not taken then.
        """
        task_id = new_request_id()
        now_ms = self._store.now_ms()
        prediction = self._inference.predict(
            call.inputs, call.state_id, timeout=call.timeout_s, headers=call.headers, request_id=task_id
        )
        record = TaskRecord(
            id=task_id,
            created_ms=now_ms,
            deadline_ms=now_ms + round(call.timeout_s * 1000),
            state_id=call.state_id,
            headers=call.headers,
            payload=payload.encode_value(call.inputs),
        )
        try:
            task = await self._store.create(record)
        except BaseException:
            prediction.cancel()
            raise
        finishing = asyncio.create_task(self._finish(task, prediction, slot), name=f"task {task_id}")
        self._own[task_id] = _OwnTask(prediction, finishing)
        return task_id

    async def read(self, task_id: str, wait_s: float) -> TaskRecord | None:
        """Return a task, after up to `wait_s` seconds if it is pending; None for an unknown or expired one.

        Raises BusUnavailableError.
        """
        task = await self._store.read(task_id)
        if task is None or not task.record.is_pending:
            return task and task.record
        own = self._own.get(task_id)
        ended = own.finishing if own else self._recovery.follow(task)
        if wait_s:
            await asyncio.wait([ended, self._stopping], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            task = await self._store.read(task_id)
        return task and task.record

    async def cancel(self, task_id: str) -> TaskRecord | None:
        """Cancel a pending task and return it as it is now: one that had ended keeps its outcome. None as `read`."""
        task = await self._store.read(task_id)
        if task is None or not task.record.is_pending:
            return task and task.record
        ended = await self._store.end(task, task.record.ended(outcome=CANCELLED, detail="the task was cancelled"))
        if ended is None:  # it has ended meanwhile
            task = await self._store.read(task_id)
            return task and task.record
        self._note(ended)
        self._recovery.forget(task_id)
        if (own := self._own.get(task_id)) is not None:
            own.prediction.cancel()
        else:  # sent by another driver, or by an earlier run of this one
            self._inference.bus.send(names.cancel_subject(self._inference.stream), task_id.encode())
        return ended

    async def _finish(self, task: Kept, prediction: PredictionFuture, slot: Slot) -> None:
        try:
            with slot:
                ended = await _end_of(task.record, prediction, slot)
            # The connection's end is not the task's: it stays pending, and another driver finishes it.
            if ended.outcome == ReplyOutcome.UNAVAILABLE and self._inference.stopping.is_set():
                return
            if (written := await self._store.end_surely(task, ended)) is not None:
                self._note(written)
        except BusError as error:  # another driver finds the answer in the stream
            log.warning("task %s stays pending: %s", task.record.id, error, extra={"action": "task-lost"})
        finally:
            del self._own[task.record.id]

    def _note(self, ended: TaskRecord) -> None:
        self._expiries[ended.id] = ended.expires_ms

    async def _find_lost(self) -> None:
        while True:
            try:
                lost = await self._store.pending()
            except BusClosedError:
                raise
            except BusError as error:
                log.info("pending tasks are not known yet: %s", error, extra={"action": "task-recovery"})
                await self._clock.sleep(RETRY_S)
                continue
            for task in lost:
                if task.record.id not in self._own:
                    self._recovery.follow(task)
            return

    async def _sweep(self) -> None:
        now_ms = self._store.now_ms()
        for task_id in [task_id for task_id, expires_ms in self._expiries.items() if expires_ms <= now_ms]:
            try:
                await self._store.delete(task_id)
            except BusError as error:
                log.info("expired results stay for now: %s", error, extra={"action": "task-sweep"})
                return
            del self._expiries[task_id]


class _OwnTask:
    __slots__ = ("finishing", "prediction")

    def __init__(self, prediction: PredictionFuture, finishing: "asyncio.Task[None]") -> None:
        self.prediction = prediction
        self.finishing = finishing


async def _end_of(record: TaskRecord, prediction: PredictionFuture, slot: Slot) -> TaskRecord:
    try:
        # Shielded: a driver that ends lets go of the task, and must not cancel its request at the nodes.
        value = await asyncio.shield(prediction)
    except PredictionError as error:
        slot.answered = bool(error.node)
        return record.ended(outcome=error.outcome, detail=error.detail, node=error.node)
    slot.answered = True
    return record.ended(outcome=ReplyOutcome.OK, payload=b"" if value is None else payload.encode_value(value))
