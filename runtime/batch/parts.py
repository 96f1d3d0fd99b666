"""What a worker works with, beside its backend: the contracts of storing and of callbacks, and all of it together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.batch.backend import Backend
from runtime.batch.records import RunRecords
from runtime.batch.run import Artifact, CallbackRecord, Reason, RunRecord
from runtime.batch.workspace import Workspace
from runtime.clock import Clock
from runtime.spec.batch import BatchSpec
from runtime.spec.node import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What was stored of a run. export: key of the zip. reason, detail: what is wrong with its outputs, if anything."""

    artifacts: tuple[Artifact, ...] = ()
    export: str = ""
    reason: Reason | None = None
    detail: str = ""


class OutputLog(Protocol):
    """Keeps what a model writes in the run's folder `log`, up to a limit; never fails for the disk's sake."""

    def write(self, stream: str, data: bytes) -> None: ...

    def close(self) -> None: ...


class Storing(Protocol):
    """Takes what a run leaves to the store."""

    def open_log(self, workspace: Workspace) -> OutputLog:
        """Return what keeps the streams of a run. Raises OSError."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...

    async def store(self, record: RunRecord, workspace: Workspace) -> Stored:
        """Look at the folders, and store and confirm every file below `record.locations.results`.

        record: of a run that has ended; where it has no reason yet, its outputs have to be valid. To store twice gives
        the same. Raises StoreError, BusError or OSError while the store does not take it.
        """
        ...


class Callbacks(Protocol):
    """Asks and tells whoever waits for a run."""

    def url(self, id: str, callback_url: str) -> str:
        """Return where callbacks of a run go, "" for nowhere. id, callback_url: of the request."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...

    async def ask_start(self, record: RunRecord) -> bool:
        """Return whether the run may start. Raises CallbackError for one that has to fail, its text saying why."""
        ...

    async def tell_end(self, record: RunRecord) -> CallbackRecord:
        """Tell how a run has ended; returns what is known of it then, `pending` where it is to be told again.

        Whoever calls has written the intent before. Raises no error of the one who is told.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all runs of one worker share.

    owner: name of the worker, see `backend.worker_name`; host: where its folders are. work: folder that holds those of
    the runs. folder: of the workflow, where commands run.
    """

    spec: BatchSpec
    retry: RetryPolicy
    records: RunRecords
    backend: Backend
    storing: Storing
    callbacks: Callbacks
    work: Path
    folder: Path
    owner: str
    host: str
    clock: Clock

    def workspace(self, run_id: str) -> Workspace:
        return Workspace(self.work / run_id)
