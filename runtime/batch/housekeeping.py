"""What a worker does beside its messages: it ends what dead workers have left, tells late, and stores again.

| what | when |
|---|---|
| processes and containers of dead workers of this host are ended | at the start, until the engine answers |
| folders of runs that have ended, or that another host has, are removed | every minute |
| completion callbacks that are still to be told are told | when their next time has come |
| runs that could not be stored are stored | when `krt runs retry-store` asks for it |
"""

import asyncio
import logging
import os

from runtime.batch.backend import Exit
from runtime.batch.endings import store, tell_end, verdict
from runtime.batch.parts import Tools
from runtime.batch.run import Reason, RunEvent, is_run_id
from runtime.batch.summaries import RunSummary
from runtime.batch.worker import Worker
from runtime.errors import BackendUnavailableError, BusClosedError, BusError, DecodeError, RunStateError

log = logging.getLogger(__name__)

# Seconds between two looks.
LOOK_S = 60.0


class Housekeeping:
    """Of one worker: `start`, then `run` until it is cancelled."""

    def __init__(self, tools: Tools, worker: Worker) -> None:
        self._tools = tools
        self._worker = worker
        self._recovered = False
        self._to_store: set[str] = set()
        self._due = asyncio.Event()

    async def start(self) -> None:
        """End what dead workers of this host have left; without the engine later."""
        try:
            await self._tools.backend.recover(self._tools.owner)
            self._recovered = True
        except BackendUnavailableError as error:
            log.warning("what dead workers have left is not ended yet: %s", error, extra={"action": "recover"})

    async def run(self) -> None:
        """Look after what is left, for ever. Raises BusClosedError."""
        listening = await self._tools.records.answer_store(self._has_files, self._on_store)
        try:
            while True:
                self._due.clear()
                await self._look_safely()
                timer = self._tools.clock.call_later(LOOK_S, self._due.set)
                try:
                    await self._due.wait()
                finally:
                    timer.cancel()
        finally:
            await listening.unsubscribe()

    async def look(self) -> None:
        """Do what is due now. Raises BusError."""
        if not self._recovered:
            await self.start()
        while self._to_store:
            await self._store(self._to_store.pop())
        await self._remove_folders()
        if self._tools.spec.callback.url:
            await self._tell_late()

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except BusClosedError:
            raise
        except (BusError, OSError) as error:
            log.warning("what is left of runs is not looked after: %s", error, extra={"action": "housekeeping"})

    def _has_files(self, run_id: str) -> bool:
        return self._tools.workspace(run_id).root.is_dir()

    def _on_store(self, run_id: str) -> None:
        self._to_store.add(run_id)
        self._due.set()

    async def _store(self, run_id: str) -> None:
        kept = await self._tools.records.find(run_id)
        if kept is None or kept.record.reason is not Reason.STORE_FAILED:
            return
        record = kept.record
        ended = Exit(code=record.exit_code, signal=record.signal)
        reason, detail = verdict(self._tools.spec, ended, None)
        now_ms = self._tools.records.now_ms()
        try:
            again = record.after(RunEvent.STORE_AGAIN, now_ms, reason=reason, detail=detail, owner=self._tools.owner)
            await store(self._tools, await self._tools.records.change(kept, again))
        except (BusError, RunStateError) as error:
            log.warning("run '%s' is not stored again: %s", run_id, error, extra={"action": "store"})

    async def _remove_folders(self) -> None:
        for name in await asyncio.to_thread(_folders, self._tools):
            if not self._worker.is_active(name) and await self._is_left(name):
                await asyncio.to_thread(self._tools.workspace(name).remove)
                log.info("the folder of run '%s' is removed", name, extra={"action": "leftover"})

    async def _is_left(self, run_id: str) -> bool:
        """Say whether nobody needs the folder of a run any more."""
        try:
            kept = await self._tools.records.find(run_id)
        except DecodeError:  # of a later version
            return False
        if kept is None:
            return True
        record = kept.record
        if record.host != self._tools.host:
            return True
        return record.state.is_final and record.reason is not Reason.STORE_FAILED

    async def _tell_late(self) -> None:
        for run, _ in await self._tools.records.all():
            if self._is_to_tell(run) and (kept := await self._tools.records.find(run.run_id)):
                await tell_end(self._tools, kept)

    def _is_to_tell(self, run: RunSummary) -> bool:
        is_ours = run.node == self._worker.node and not self._worker.is_active(run.run_id)
        is_due = run.end_status == "pending" and run.end_next <= self._tools.records.now_ms()
        return is_ours and run.state.is_final and is_due


def _folders(tools: Tools) -> list[str]:
    return sorted(filter(is_run_id, os.listdir(tools.work))) if tools.work.is_dir() else []
