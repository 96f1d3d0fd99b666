"""One run, from the question whether it may start to its removal.

    1. take     the record is this worker's; an earlier attempt counts as lost       _take
    2. ask      the start callback: OK or Cancel                                     _ask
    3. prepare  folders and input, then the image or the command                     _prepare
    4. run      until it ends, its time is over, or somebody cancels it              _run
    5. store    validate, zip, store and confirm, whatever the exit code             _store
    6. finish   the ending in the record, the completion callback, removal           _finish

The record says of each step that it begins, by compare-and-set and before it begins: a worker that has lost its run to
another finds out there, and stops what it has started.
"""

import asyncio
import errno
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from runtime.batch.backend import Exit, Job, JobLimits, Prepared, Running
from runtime.batch.endings import delay_s, finish, store, verdict
from runtime.batch.parts import OutputLog, Tools
from runtime.batch.records import Kept
from runtime.batch.request import Model, Request, image_allowed, results_hash
from runtime.batch.run import (
    CallbackRecord,
    Locations,
    Reason,
    RunEvent,
    RunRecord,
    RunState,
    Versions,
)
from runtime.batch.stopping import Stopping, surely
from runtime.errors import (
    BackendUnavailableError,
    BusError,
    CallbackError,
    ModelStartError,
    PullError,
    RevisionError,
    Wait,
)
from runtime.version import __version__

log = logging.getLogger(__name__)

# The variable of the model, and the label of its image, that name the version of what wraps it.
CONNECTOR_VARIABLE, CONNECTOR_LABEL = "CONNECTOR_VERSION", "krt.connector.version"

T = TypeVar("T")


class _End(Exception):
    """The run ends here, before anything of it has run."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Execution:
    """One attempt at one run by one worker; made for it, and used once."""

    def __init__(self, tools: Tools, request: Request, model: Model, kept: Kept, *, redrive: int = 0) -> None:
        """kept: the record, which nobody else works on. redrive: of the message that asks for the run."""
        self._tools = tools
        self._request = request
        self._model = model
        self._kept = kept
        self._redrive = redrive
        self._workspace = tools.workspace(kept.record.run_id)
        self._stopping = Stopping(kept.record.run_id)

    @property
    def _record(self) -> RunRecord:
        return self._kept.record

    async def run(self) -> RunRecord:
        """Bring the run to its end, and return it. Raises Wait where that has to be later, BusError.

        Cancelling ends what was started, and gives the run back.
        """
        cancel = partial(self._stopping.request, Reason.CANCELLED)
        listening = await self._tools.records.answer_cancel(self._record.run_id, cancel)
        try:
            return await self._to_the_end()
        except asyncio.CancelledError:
            await surely(self._give_back())
            raise
        except RevisionError as error:
            raise Wait(f"run '{self._record.run_id}' was changed by somebody else: {error}") from error
        finally:
            await listening.unsubscribe()

    async def _to_the_end(self) -> RunRecord:
        if self._has_only_to_store():
            await self._change(self._record.changed(owner=self._tools.owner))
            return await self._store()
        await self._take()
        try:
            await self._ask()
            job, prepared = await self._prepare()
            await self._run(job, prepared)
        except _End as end:
            return await self._finish(end.reason, end.detail)
        except BackendUnavailableError as error:
            return await self._wait_for_backend(error)
        return await self._store()

    # --- 1. take ---

    def _has_only_to_store(self) -> bool:
        """Say whether an earlier attempt has left nothing but its files to store, on this host."""
        is_here = self._record.host == self._tools.host and self._workspace.metadata.parent.is_dir()
        return self._record.state is RunState.STORING and is_here

    async def _take(self) -> None:
        record, now_ms = self._record, self._tools.records.now_ms()
        if record.state is RunState.FAILED:
            record = record.after(RunEvent.REOPEN, now_ms, failures=0, callbacks=type(record.callbacks)())
        elif record.state is not RunState.PENDING:
            log.warning(
                "run '%s' was %s when its worker %s went; it begins again",
                record.run_id, record.state, record.owner or "?", extra={"action": "run-lost"},
            )  # fmt: skip
            record = record.after(RunEvent.LOSE, now_ms)
        cleared = {"exit_code": None, "signal": "", "reason": None, "detail": "", "artifacts": (), "left_out": 0}
        await self._change(
            record.after(
                RunEvent.TAKE,
                now_ms,
                **cleared,
                attempt=record.attempt + 1,
                redrive=self._redrive,
                owner=self._tools.owner,
                host=self._tools.host,
                image=self._model.image or self._tools.spec.image,
                locations=Locations(),
                versions=self._versions(Prepared(version="", digest="")),
            )
        )

    def _versions(self, prepared: Prepared) -> Versions:
        spec = self._tools.spec
        connector = spec.environment.get(CONNECTOR_VARIABLE) or prepared.labels.get(CONNECTOR_LABEL, "")
        return Versions(runner=__version__, model=spec.version or prepared.version, connector=connector)

    # --- 2. ask ---

    async def _ask(self) -> None:
        image = self._model.image
        if image and image != self._tools.spec.image and not image_allowed(image, self._tools.spec.allowed_images):
            raise _End(
                Reason.IMAGE_NOT_ALLOWED,
                f"the node does not allow the image '{image}'; its owner can add it to images.allow",
            )
        started = self._record.callbacks.start
        if started.status == "sent":  # by an earlier attempt, and the answer was OK
            return
        now_ms = self._tools.records.now_ms()
        intent = CallbackRecord(status="pending", state=self._record.state, since=now_ms, tries=started.tries + 1)
        await self._change(self._with_start_callback(intent))
        try:
            may_start = await self._unless_stopped(self._tools.callbacks.ask_start(self._record))
        except CallbackError as error:
            raise _End(Reason.CALLBACK_REFUSED, str(error)) from error
        answer = "ok" if may_start else "cancel"
        await self._change(self._with_start_callback(intent.model_copy(update={"status": "sent", "answer": answer})))
        if not may_start:
            raise _End(Reason.CANCELLED, "the answer to the start callback was to cancel it")

    def _with_start_callback(self, start: CallbackRecord) -> RunRecord:
        return self._record.changed(callbacks=self._record.callbacks.model_copy(update={"start": start}))

    # --- 3. prepare ---

    async def _prepare(self) -> tuple[Job, Prepared]:
        spec = self._tools.spec
        try:
            await asyncio.to_thread(self._workspace.make, self._request.text, shared=spec.user == "image")
        except OSError as error:
            raise _no_space(error) from error
        job = self._job()
        try:
            return job, await self._unless_stopped(self._tools.backend.prepare(job))
        except PullError as error:
            raise _End(Reason.PULL_FAILED, str(error)) from error

    def _job(self) -> Job:
        spec, workspace, record = self._tools.spec, self._workspace, self._record
        resources = spec.resources
        return Job(
            run_id=record.run_id,
            worker=self._tools.owner,
            image=record.image if spec.backend == "docker" else "",
            command=spec.command,
            input=workspace.input,
            output=workspace.output,
            log=workspace.log,
            metadata=workspace.metadata,
            environment=spec.environment,
            folder=self._tools.folder,
            limits=JobLimits(
                cpu=resources.cpu,
                memory_bytes=resources.memory_bytes,
                pids=resources.pids,
                gpu=resources.gpu,
                file_bytes=spec.limits.output_bytes,
                network=spec.network,
            ),
            version=spec.version,
        )

    # --- 4. run ---

    async def _run(self, job: Job, prepared: Prepared) -> None:
        artifacts = self._tools.spec.artifacts
        versions = self._versions(prepared)
        address = results_hash(self._request, self._record.slug, prepared.digest or versions.model)
        await self._change(
            self._record.after(
                RunEvent.START,
                self._tools.records.now_ms(),
                image_digest=prepared.digest if job.image else "",
                versions=versions,
                locations=Locations(store=artifacts.store, results=f"{artifacts.prefix}/{address}"),
            )
        )
        try:
            kept_output = self._tools.storing.open_log(self._workspace)
        except OSError as error:
            raise _no_space(error) from error
        try:
            ended, cause = await self._run_with(job, kept_output)
        except ModelStartError as error:
            raise _End(Reason.START_FAILED, str(error)) from error
        finally:
            kept_output.close()
        reason, detail = verdict(self._tools.spec, ended, cause)
        await self._change(
            self._record.after(
                RunEvent.END,
                self._tools.records.now_ms(),
                exit_code=ended.code,
                signal=ended.signal,
                reason=reason,
                detail=detail,
            )
        )

    async def _run_with(self, job: Job, kept_output: OutputLog) -> tuple[Exit, Reason | None]:
        records, run_id = self._tools.records, job.run_id

        def on_output(stream: str, data: bytes) -> None:
            kept_output.write(stream, data)
            records.tell_output(run_id, stream, data)

        running = await self._tools.backend.start(job, on_output)
        try:
            return await self._until_end(running)
        finally:
            await surely(running.remove())

    async def _until_end(self, running: Running) -> tuple[Exit, Reason | None]:
        """Return how the model has ended, and why it was stopped, None if it has ended by itself."""
        spec, stop = self._tools.spec, partial(self._stopping.request, Reason.TIMEOUT)
        timer = self._tools.clock.call_later(spec.timeout_s, stop) if spec.timeout_s else None
        try:
            if (ended := await self._stopping.first(running.wait())) is not None:
                return ended[0], None
            await running.stop(spec.grace_s)
            return await running.wait(), self._stopping.cause
        except asyncio.CancelledError:
            await surely(running.stop(spec.grace_s))
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what is awaited. Raises _End when the run is cancelled meanwhile."""
        done = await self._stopping.first(work)
        if done is None:
            raise _End(Reason.CANCELLED, "cancelled before it was started")
        return done[0]

    # --- 5. store, 6. finish ---

    async def _store(self) -> RunRecord:
        self._kept = await store(self._tools, self._kept)
        return self._record

    async def _finish(self, reason: Reason | None, detail: str) -> RunRecord:
        self._kept = await finish(self._tools, self._kept, reason, detail)
        return self._record

    async def _wait_for_backend(self, error: BackendUnavailableError) -> RunRecord:
        """Give the run back for a later attempt, of this worker or of another; after the last one it has failed."""
        failures = self._record.failures + 1
        if failures >= self._tools.retry.attempts:
            self._kept = Kept(self._record.changed(failures=failures), self._kept.revision)
            return await self._finish(Reason.BACKEND_UNAVAILABLE, str(error))
        now_ms = self._tools.records.now_ms()
        waiting = self._record.after(RunEvent.WAIT, now_ms, failures=failures, owner="", detail=str(error))
        await self._change(waiting)
        pause_s = delay_s(self._tools.retry, failures)
        raise Wait(f"run '{waiting.run_id}': {error}", first_s=pause_s, max_s=pause_s) from error

    async def _give_back(self) -> None:
        """Let another worker have the run: this one stops. What cannot be written is found out from presence."""
        record = self._record
        if record.owner != self._tools.owner:
            return
        if record.state in (RunState.STARTING, RunState.RUNNING):
            record = record.after(RunEvent.WAIT, self._tools.records.now_ms(), detail="its worker has stopped")
        try:
            await self._change(record.changed(owner=""))
        except BusError as error:
            log.warning("run '%s' is not given back: %s", record.run_id, error, extra={"action": "run-lost"})

    async def _change(self, record: RunRecord) -> None:
        self._kept = await self._tools.records.change(self._kept, record)


def _no_space(error: OSError) -> _End | BackendUnavailableError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _End(Reason.NO_SPACE, f"no room for the run's folders: {error}")
    return BackendUnavailableError(f"the run's folders cannot be made: {error}")
