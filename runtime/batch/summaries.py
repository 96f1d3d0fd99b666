"""Lists of batch runs: what tells one from another, read out of the records of all of them.

A list of ten thousand runs takes as long as its records do, so that they are read without the models of `run.py`, and
checked as far as lists need it.
"""

import logging
from types import NoneType
from typing import NamedTuple

import orjson

from runtime.batch.states import Reason, RunState
from runtime.bus.base import Entry, KeyValue
from runtime.errors import DecodeError

log = logging.getLogger(__name__)


class RunSummary(NamedTuple):
    """What lists tell of a run. created, started, ended, expires, end_next: unix milliseconds, 0 for what is not known.

    ended: when its model has, or it without one. end_status, end_next: of the callback that tells its end, see
    `run.CallbackRecord`.
    """

    run_id: str
    node: str
    slug: str
    state: RunState
    reason: Reason | None
    end_status: str
    end_next: int
    created: int
    started: int
    ended: int
    expires: int

    def is_expired(self, now_ms: int) -> bool:
        return bool(self.expires) and self.expires <= now_ms


class Listed(NamedTuple):
    """One run of many. data: its record as it is kept, for whoever shows more than the summary."""

    summary: RunSummary
    data: bytes


# What follows in a record, as `RunRecord.encode` writes it, on all that a summary is made of. No text in JSON holds it,
# for there a backslash stands before each quotation mark.
_REST = b',"id":'
# The types of a summary's fields.
_SHAPES = {(str, str, str, RunState, why, str, int, int, int, int, int) for why in (NoneType, Reason)}


async def list_all(bucket: KeyValue, now_ms: int) -> list[Listed]:
    """Return every run of the bucket that is not expired, the newest first; one that cannot be read is logged.

    Raises NotFoundError, BusUnavailableError.
    """
    found: dict[str, Listed] = {}

    def on_entry(key: str, entry: Entry | None) -> None:
        if entry is None:
            return
        try:
            found[key] = Listed(summarise(entry.value), entry.value)
        except DecodeError as error:
            log.warning("key %s of the bucket of runs is passed over: %s", key, error, extra={"action": "run-record"})

    watch = await bucket.watch("*", on_entry)
    await watch.unsubscribe()
    runs = (each for each in found.values() if not each.summary.is_expired(now_ms))
    return sorted(runs, key=lambda each: (-each.summary.created, each.summary.run_id))


def summarise(data: bytes) -> RunSummary:
    """Read the summary out of a record. Raises DecodeError."""
    # A record begins with what a list needs; to read the rest, most of it artifacts, would take three times as long.
    end = data.find(_REST)
    try:
        return _summary(data[:end] + b"}" if end > 0 else data)
    except DecodeError:
        return _summary(data)


def _summary(data: bytes) -> RunSummary:
    try:
        record = orjson.loads(data)
        times, end, reason = record["times"], record["callbacks"]["end"], record["reason"]
        summary = RunSummary(
            record["runId"],
            record["node"],
            record["slug"],
            RunState(record["state"]),
            None if reason is None else Reason(reason),
            end["status"],
            end["next"],
            times["created"],
            times["started"],
            times["ended"] or times["finished"],
            times["expires"],
        )
    except (LookupError, TypeError, ValueError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error
    if tuple(map(type, summary)) not in _SHAPES:
        raise _unreadable(f"a text or a number is none: {summary}")
    return summary


def _unreadable(why: str) -> DecodeError:
    return DecodeError(f"the record of a run cannot be read: {why}", reason="payload")
