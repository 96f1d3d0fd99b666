"""One run of a packaged model: its id and its record. Pure; the first file to read about batch runs, with `states.py`.

A record is JSON with the names of the design page, kept by `records.py`; lists read a part of it, see `summaries.py`.
"""

import hashlib
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from runtime.batch.states import FINAL as FINAL
from runtime.batch.states import INVALID as INVALID
from runtime.batch.states import REOPENED as REOPENED
from runtime.batch.states import TRANSITIONS as TRANSITIONS
from runtime.batch.states import Reason as Reason
from runtime.batch.states import RunEvent as RunEvent
from runtime.batch.states import RunState as RunState
from runtime.batch.states import ending as ending
from runtime.batch.states import next_state as next_state

# Characters of a `detail`, and artifacts that a record names: it is one message, and the store knows the rest.
MAX_DETAIL = 2_000
MAX_ARTIFACTS = 1_000
# Request ids that run ids show as they are: every other one is hashed, for a run id is part of a subject.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}_[a-z0-9-]{1,40}_[0-9]{1,4}")


class _Part(BaseModel):
    """Base of what a record holds: frozen, with the JSON names of the design page; unknown fields are left out."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class Artifact(_Part):
    """One stored file. path: relative to the run's folder, with "/"."""

    path: str
    size: int
    sha256: str
    visibility: Literal["public", "private"] = "private"


class Versions(_Part):
    """What a run is made of. model: the node's `version`, else what the backend says. connector: of the packaging."""

    runner: str = ""
    model: str = ""
    connector: str = ""


class Times(_Part):
    """Unix milliseconds, 0 for what has not happened. expires: from then on the record counts as gone."""

    created: int = 0
    started: int = 0
    ended: int = 0
    finished: int = 0
    expires: int = 0


class Locations(_Part):
    """Where the results are: keys in `store`. results: what all keys of the run begin with; export: of the zip."""

    store: str = ""
    results: str = ""
    export: str = ""


class CallbackRecord(_Part):
    """What is known of one callback: the intent is written before it is sent, the answer after it.

    status: "" for one that is not due, or that nobody wants. state: of the run that is told, part of the idempotency
    key. since, next: unix milliseconds of the first attempt, and of the one that comes next.
    """

    status: Literal["", "pending", "sent", "callback-failed"] = ""
    state: str = ""
    answer: str = ""
    tries: int = 0
    since: int = 0
    next: int = 0


class Callbacks(_Part):
    """The two callbacks of a run."""

    start: CallbackRecord = CallbackRecord()
    end: CallbackRecord = CallbackRecord()


class RunRecord(_Part):
    """One run, as everybody sees it.

    id: of the submitter, else the request's. attempt: times that a worker has taken it. owner: the worker that has it,
    "" for none; host: where its work files are. failures: attempts that something unavailable has ended. redrive: of
    the message that it was taken for last. callback_url: where callbacks go, "" for nowhere. artifacts: the first
    `MAX_ARTIFACTS`; left_out: how many more the store has.
    """

    run_id: str
    node: str
    slug: str
    state: RunState = RunState.PENDING
    reason: Reason | None = None
    times: Times = Times()
    callbacks: Callbacks = Callbacks()
    id: str
    attempt: int = 0
    failures: int = 0
    redrive: int = 0
    owner: str = ""
    host: str = ""
    image: str = ""
    image_digest: str = ""
    versions: Versions = Versions()
    exit_code: int | None = None
    signal: str = ""
    detail: str = ""
    artifacts: tuple[Artifact, ...] = ()
    left_out: int = 0
    locations: Locations = Locations()
    callback_url: str = ""

    def is_expired(self, now_ms: int) -> bool:
        return bool(self.times.expires) and self.times.expires <= now_ms

    def after(self, event: RunEvent, now_ms: int, **changes: object) -> Self:
        """Return the record after an event, with what changes with it. Raises RunStateError."""
        state = next_state(self.state, event)
        times = self.times.model_copy(update=_moments(state, now_ms))
        return self.changed(state=state, times=times, **changes)

    def ended(self, reason: Reason | None, detail: str, now_ms: int, *, keep_s: float = 0.0) -> Self:
        """Return the record with its end, and with the intent to tell it, under a key of its own for every state.

        keep_s: how long the record is kept, 0 for as long as its bucket keeps it. Raises RunStateError.
        """
        record = self.after(ending(reason), now_ms, reason=reason, detail=detail, owner="")
        end = CallbackRecord()
        if record.callback_url:
            end = CallbackRecord(status="pending", state=record.state, since=now_ms, next=now_ms)
        expires = now_ms + round(keep_s * 1000) if keep_s else 0
        return record.changed(
            times=record.times.model_copy(update={"expires": expires}),
            callbacks=record.callbacks.model_copy(update={"end": end}),
        )

    def changed(self, **changes: object) -> Self:
        """Return the record with other values; a `detail` that is too long is cut."""
        detail = changes.get("detail")
        if isinstance(detail, str) and len(detail) > MAX_DETAIL:
            changes["detail"] = f"{detail[: MAX_DETAIL - 1]}…"
        return self.model_copy(update=changes)

    def with_artifacts(self, artifacts: tuple[Artifact, ...]) -> Self:
        """Return the record with as many of these as it can name."""
        return self.changed(artifacts=artifacts[:MAX_ARTIFACTS], left_out=max(len(artifacts) - MAX_ARTIFACTS, 0))

    def encode(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()

    def result(self) -> dict[str, str | None]:
        """Return what the node tells of the run in its output."""
        locations = self.locations
        return {
            "modelSlug": self.slug,
            "status": self.state.word,
            "reason": self.reason,
            "detail": self.detail or None,
            "resultsLocation": _location(locations.store, locations.results),
            "exportLocation": _location(locations.store, locations.export),
            "runId": self.run_id,
        }


def run_id(request_id: str, node: str, index: int) -> str:
    """Return the id of a request's run number `index` (from 0) on a node: the same for every delivery."""
    plain = request_id if _PLAIN_ID.fullmatch(request_id) else hashlib.sha256(request_id.encode()).hexdigest()[:32]
    return f"{plain}_{node}_{index}"


def is_run_id(text: str) -> bool:
    """Say whether `text` has the form of a run id; anything else is not looked for."""
    return _RUN_ID.fullmatch(text) is not None


def _moments(state: RunState, now_ms: int) -> dict[str, int]:
    """Return the times that entering a state sets."""
    if state is RunState.PENDING:
        return {"started": 0, "ended": 0, "finished": 0, "expires": 0}
    if state is RunState.RUNNING:
        return {"started": now_ms}
    if state is RunState.STORING:
        return {"ended": now_ms, "finished": 0, "expires": 0}
    return {"finished": now_ms} if state.is_final else {}


def _location(store: str, key: str) -> str | None:
    return f"{store}/{key}" if key else None
