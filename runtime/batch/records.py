"""The records of batch runs on NATS: kept in a bucket, changed by compare-and-set, told as events.

    worker ──write──▶ KV runs_<stream> ──▶ read, list, follow      (CLI, HTTP driver)
                 └──▶ run.<stream>.<run id>.event, ….log           (whoever listens)
    CLI, driver ──▶ ….cancel ──▶ the worker that has the run

Every change is made over the revision that it was made from: of two workers that take one run, one is told so.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import pydantic

from runtime.batch.run import FINAL, Reason, RunRecord, RunState, is_run_id
from runtime.batch.summaries import Listed, list_all
from runtime.bus.base import Bus, CoreMessage, Entry, KeyValue, Subscription
from runtime.clock import Clock
from runtime.errors import (
    BusUnavailableError,
    DecodeError,
    NoRespondersError,
    NotFoundError,
    RevisionError,
    RunStateError,
)
from runtime.spec import names

log = logging.getLogger(__name__)

# Seconds in which the worker of a run answers that it has heard.
ANSWER_S = 5.0
# Largest piece of a run's output in one message, below what any server takes.
MAX_PIECE_BYTES = 256 * 1024
# Times that a cancellation is tried against a record that changes all the time.
CANCEL_TRIES = 10

OnRecord = Callable[[RunRecord], None]
# Name of the stream, `stdout` or `stderr`, and a piece of it as it was written.
OnOutput = Callable[[str, bytes], None]


class Kept(NamedTuple):
    """A record with its revision, for a change that only counts if nobody else has changed it."""

    record: RunRecord
    revision: int


class RunRecords:
    """The batch runs of one workflow. Opened by its first use, which the manager has made the bucket for.

    Every method raises BusUnavailableError, and NotFoundError for a workflow without nodes of kind batch.
    """

    def __init__(self, bus: Bus, stream: str, clock: Clock) -> None:
        self._bus = bus
        self._stream = stream
        self._clock = clock
        self._opened: KeyValue | None = None

    def now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000

    # --- reading ---

    async def find(self, run_id: str) -> Kept | None:
        """Return a run; None for one that is unknown or expired. Raises DecodeError."""
        if not is_run_id(run_id):
            return None
        bucket = await self._bucket()
        try:
            entry = await bucket.get(run_id)
        except NotFoundError:
            return None
        kept = Kept(decode(entry.value), entry.revision)
        return None if kept.record.is_expired(self.now_ms()) else kept

    async def read(self, run_id: str) -> Kept:
        """Return a run. Raises NotFoundError for one that is unknown or expired, DecodeError."""
        kept = await self.find(run_id)
        if kept is None:
            raise NotFoundError(f"there is no run '{run_id}'; `krt runs ls` shows those that there are")
        return kept

    async def all(self) -> list[Listed]:
        """Return every run that is not expired, the newest first."""
        return await list_all(await self._bucket(), self.now_ms())

    async def follow(self, run_id: str, on_record: OnRecord) -> Subscription:
        """Call back, on the loop, with the run as it is, and from then on with every change."""

        def on_entry(key: str, entry: Entry | None) -> None:
            if entry is not None and (record := _readable(key, entry.value)):
                on_record(record)

        return await (await self._bucket()).watch(run_id, on_entry)

    async def follow_output(self, run_id: str, on_output: OnOutput) -> Subscription:
        """Call back, on the loop, with what the run writes from now on."""

        def on_piece(message: CoreMessage) -> None:
            on_output((message.headers or {}).get(names.OUTPUT_STREAM_HEADER, "stdout"), message.data)

        return await self._bus.subscribe(self._subject(run_id, "log"), on_piece)

    # --- changing ---

    async def create(self, record: RunRecord) -> Kept:
        """Write a new run, or return the one that is there. Raises DecodeError."""
        bucket = await self._bucket()
        while (found := await self.find(record.run_id)) is None:
            # An expired one is written over: the request has come again after all this time.
            try:
                kept = Kept(record, await self._write_new(bucket, record))
            except RevisionError:
                continue
            self._tell(record)
            return kept
        return found

    async def _write_new(self, bucket: KeyValue, record: RunRecord) -> int:
        try:
            expired = await bucket.get(record.run_id)
        except NotFoundError:
            return await bucket.create(record.run_id, record.encode())
        return await bucket.update(record.run_id, record.encode(), expired.revision)

    async def change(self, kept: Kept, record: RunRecord) -> Kept:
        """Write a run over what was read. Raises RevisionError when somebody else has changed it."""
        revision = await (await self._bucket()).update(record.run_id, record.encode(), kept.revision)
        self._tell(record)
        return Kept(record, revision)

    async def cancel(self, run_id: str) -> RunRecord:
        """End a run: ask the worker that has it, and write it down for one that nobody has.

        Returns the record as it is then; one that runs ends when its processes have. Raises NotFoundError, and
        RunStateError for a run that has ended, or whose outputs are being stored.
        """
        for _ in range(CANCEL_TRIES):
            kept = await self.read(run_id)
            check_cancel(kept.record)
            if kept.record.owner and await self._ask_owner(run_id):
                return (await self.read(run_id)).record
            try:
                return (await self.change(kept, self._cancelled(kept.record))).record
            except RevisionError:
                continue
        raise RevisionError(f"run '{run_id}' changes faster than it can be cancelled; try again")

    async def _ask_owner(self, run_id: str) -> bool:
        """Say whether the worker of a run has heard; one that nobody hears is gone."""
        try:
            await self._bus.request(self._subject(run_id, "cancel"), b"", timeout_s=ANSWER_S)
        except NoRespondersError:
            return False
        return True

    def _cancelled(self, record: RunRecord) -> RunRecord:
        detail = "cancelled before a worker had it" if not record.owner else "cancelled while its worker was gone"
        return record.ended(Reason.CANCELLED, detail, self.now_ms())

    async def store_again(self, run_id: str) -> None:
        """Ask the worker that has the files of a run to store them, which goes on when this returns.

        Raises NotFoundError, RunStateError for a run that did not fail at storing, BusUnavailableError where no worker
        has its files.
        """
        record = (await self.read(run_id)).record
        if record.reason is not Reason.STORE_FAILED:
            raise RunStateError(f"run '{run_id}' is {record.state}, and has nothing that is still to be stored")
        try:
            await self._bus.request(self._subject(run_id, "store"), b"", timeout_s=ANSWER_S)
        except (NoRespondersError, BusUnavailableError) as error:
            what = f"no worker has the files of run '{run_id}', which are on host {record.host}"
            raise BusUnavailableError(f"{what}: start the node there") from error

    # --- the worker's side ---

    async def answer_store(self, has_files: Callable[[str], bool], on_store: Callable[[str], None]) -> Subscription:
        """Call back for every request to store a run whose files are here; the others are for other workers."""

        def on_request(message: CoreMessage) -> None:
            run_id = message.subject.split(".")[-2]
            if is_run_id(run_id) and has_files(run_id):
                on_store(run_id)
                self._bus.send(message.reply, b"{}")

        return await self._bus.subscribe(self._subject("*", "store"), on_request)

    async def answer_cancel(self, run_id: str, on_cancel: Callable[[], None]) -> Subscription:
        """Call back for every request to cancel the run, which is answered at once."""

        def on_request(message: CoreMessage) -> None:
            on_cancel()
            if message.reply:
                self._bus.send(message.reply, b"{}")

        return await self._bus.subscribe(self._subject(run_id, "cancel"), on_request)

    async def ask_start(self, run_id: str, body: bytes, timeout_s: float) -> bytes | None:
        """Ask whoever serves it whether the run may start; returns the answer, None where nobody does.

        Raises BusUnavailableError when there is no answer in time.
        """
        try:
            return (await self._bus.request(self._subject(run_id, "start"), body, timeout_s=timeout_s)).data
        except NoRespondersError:
            return None

    def tell_output(self, run_id: str, stream: str, data: bytes) -> None:
        """Tell what a run has written; lost where nobody listens, for the files have it."""
        subject, headers = self._subject(run_id, "log"), {names.OUTPUT_STREAM_HEADER: stream}
        for start in range(0, len(data), MAX_PIECE_BYTES):
            self._bus.send(subject, data[start : start + MAX_PIECE_BYTES], headers=headers)

    def _tell(self, record: RunRecord) -> None:
        self._bus.send(self._subject(record.run_id, "event"), record.encode())

    def _subject(self, run_id: str, action: str) -> str:
        return names.run_subject(self._stream, run_id, action)

    async def _bucket(self) -> KeyValue:
        if self._opened is None:
            self._opened = await self._bus.key_value(names.runs_bucket(self._stream))
        return self._opened


def check_cancel(record: RunRecord) -> None:
    """Raise RunStateError for a run that cannot be cancelled any more."""
    if record.state is RunState.STORING:
        raise RunStateError(f"run '{record.run_id}' has done its work, and its outputs are being stored")
    if record.state in FINAL:
        raise RunStateError(f"run '{record.run_id}' has ended: it is {record.state}")


def decode(data: bytes) -> RunRecord:
    """Read a record; fields of a later version are left out. Raises DecodeError."""
    try:
        return RunRecord.model_validate_json(data)
    except pydantic.ValidationError as error:
        raise DecodeError(f"the record of a run cannot be read: {error}", reason="payload") from error


def _readable(key: str, data: bytes) -> RunRecord | None:
    try:
        return decode(data)
    except DecodeError as error:
        log.warning("key %s of the bucket of runs is passed over: %s", key, error, extra={"action": "run-record"})
        return None
