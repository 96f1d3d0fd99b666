"""The worker of a node of kind `batch`: takes messages, runs what they ask for, and looks after what is left of runs.

    message ─▶ request ─▶ a record for each model ─▶ executions, some at once ─▶ result

A run is one for all deliveries of its message, whoever takes them: one that has ended is told again, one that another
living worker has is waited for, and one whose worker is gone begins again.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from runtime.batch.backend import is_gone
from runtime.batch.endings import finish, tell_end
from runtime.batch.execution import Execution
from runtime.batch.parts import Tools
from runtime.batch.presence import Workers
from runtime.batch.records import Kept
from runtime.batch.request import InvalidRequestError, Model, Request, read_request
from runtime.batch.run import INVALID, REOPENED, Reason, RunRecord, Times, run_id
from runtime.batch.schemas import Schema
from runtime.errors import Reject, RevisionError, Wait

log = logging.getLogger(__name__)

# Seconds after which a message whose run another worker has is looked at again: the first time, and at most.
JOIN_FIRST_S, JOIN_MAX_S = 0.5, 5.0


class Origin(NamedTuple):
    """The message that asks for runs: its request id, and how often it was redriven.

    sequence: number in the stream of a message that another node has sent, 0 for one of a caller.
    """

    request_id: str
    redrive: int = 0
    sequence: int = 0

    def run_id(self, node: str, index: int) -> str:
        """Return the id of a run. A caller knows it beforehand; of a node there may be many messages of one request."""
        return run_id(f"{self.request_id}-{self.sequence}" if self.sequence else self.request_id, node, index)


class Worker:
    """One worker; `start`, then `handle` for every message, and `close`."""

    def __init__(self, node: str, tools: Tools, workers: Workers, schema: Schema | None) -> None:
        """workers: those of the workflow that are alive, this one among them. schema: of configurations."""
        self.node = node
        self._tools = tools
        self._workers = workers
        self._schema = schema
        # Ids of the runs that are executed here.
        self._active: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def is_active(self, run_id: str) -> bool:
        """Say whether a run is executed here."""
        return run_id in self._active

    async def close(self) -> None:
        """Wait until nothing runs here any more. The executions have been cancelled before."""
        await self._idle.wait()

    async def handle(self, payload: bytes, origin: Origin) -> dict[str, Any]:
        """Bring all runs of a message to their ends, and return its result.

        Raises Wait when it has to come again, Reject for a dead letter, BusError. Cancelling stops the runs.
        """
        try:
            request = self._read(payload, origin)
        except InvalidRequestError as error:
            await self._refuse(error, origin)
            raise Reject(str(error)) from error
        parallel = asyncio.Semaphore(self._tools.spec.limits.parallel)
        outcomes = await self._run_all(request, origin, parallel)
        _raise_what_is_later(outcomes)
        records = [outcome for outcome in outcomes if isinstance(outcome, RunRecord)]
        _reject_unavailable(records)
        return {"id": request.id, "runs": [record.result() for record in records]}

    # --- requests ---

    def _read(self, payload: bytes, origin: Origin) -> Request:
        """Raises InvalidRequestError."""
        request = read_request(payload, request_id=origin.request_id, slug=self.node)
        if self._schema is not None and (faults := self._schema.faults(request.configuration)):
            raise InvalidRequestError(faults, id=request.id, callback_url=request.callback_url)
        return request

    async def _refuse(self, error: InvalidRequestError, origin: Origin) -> None:
        """Write down, and tell, that a message asks for nothing that can be run."""
        record = self._new_record(origin, 0, Model(self.node), error.id, error.callback_url)
        kept = await self._tools.records.create(record)
        if not kept.record.state.is_final:
            await finish(self._tools, kept, Reason.INVALID_INPUT, str(error))

    def _new_record(self, origin: Origin, index: int, model: Model, id: str, callback_url: str) -> RunRecord:
        id = id or origin.request_id
        return RunRecord(
            run_id=origin.run_id(self.node, index),
            id=id,
            node=self.node,
            slug=model.slug,
            redrive=origin.redrive,
            image=model.image or self._tools.spec.image,
            times=Times(created=self._tools.records.now_ms()),
            callback_url=self._tools.callbacks.url(id, callback_url),
        )

    # --- runs ---

    async def _run_all(
        self, request: Request, origin: Origin, parallel: asyncio.Semaphore
    ) -> list[RunRecord | Exception]:
        """Return how each run has ended, or why it has not; one that fails stops no other."""

        async def run(index: int, model: Model) -> RunRecord | Exception:
            async with parallel:
                try:
                    return await self._run(request, origin, index, model)
                except Exception as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(run(index, model), name=f"run {index} of {origin.request_id}")
                for index, model in enumerate(request.models)
            ]
        return [task.result() for task in tasks]

    async def _run(self, request: Request, origin: Origin, index: int, model: Model) -> RunRecord:
        record = self._new_record(origin, index, model, request.id, request.callback_url)
        kept = await self._tools.records.create(record)
        if kept.record.state.is_final and not _is_reopened(kept.record, origin):
            return await self._tell_again(kept)
        self._check_free(kept.record)
        execution = Execution(self._tools, request, model, kept, redrive=origin.redrive)
        return await self._execute(kept.record.run_id, execution)

    async def _tell_again(self, kept: Kept) -> RunRecord:
        try:
            return (await tell_end(self._tools, kept)).record
        except RevisionError:  # somebody else tells it at this moment
            return kept.record

    def _check_free(self, record: RunRecord) -> None:
        """Raise Wait for a run that a living worker has: there is never a second process beside a first one."""
        owner = record.owner
        busy = record.run_id in self._active
        if owner and owner != self._tools.owner:
            busy = not is_gone(owner) and self._workers.may_live(owner)
        if busy:
            reason = f"run '{record.run_id}' is {record.state} at worker {owner}"
            raise Wait(reason, first_s=JOIN_FIRST_S, max_s=JOIN_MAX_S)

    async def _execute(self, run_id: str, execution: Execution) -> RunRecord:
        self._active.add(run_id)
        self._idle.clear()
        try:
            return await execution.run()
        finally:
            self._active.discard(run_id)
            if not self._active:
                self._idle.set()


def _is_reopened(record: RunRecord, origin: Origin) -> bool:
    """Say whether somebody has redriven the message of a run that failed for something that may be there now."""
    return record.reason in REOPENED and origin.redrive > record.redrive


def _raise_what_is_later(outcomes: Sequence[RunRecord | Exception]) -> None:
    """Raise what keeps a run from its end: something unexpected first, else that it has to wait."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for error in sorted(errors, key=lambda error: isinstance(error, Wait)):
        raise error


def _reject_unavailable(records: Sequence[RunRecord]) -> None:
    """Raise Reject where something was unavailable to the last: the message is kept, to be redriven."""
    lost = [record for record in records if record.reason in REOPENED | INVALID]
    if lost:
        raise Reject("; ".join(f"run '{record.run_id}': {record.reason}: {record.detail}" for record in lost))
