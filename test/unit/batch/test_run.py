"""States of a run, its id and its record."""

import itertools
import json

import pytest

from runtime.batch.run import (
    FINAL,
    MAX_ARTIFACTS,
    MAX_DETAIL,
    TRANSITIONS,
    Artifact,
    Locations,
    Reason,
    RunEvent,
    RunRecord,
    RunState,
    is_run_id,
    next_state,
    run_id,
)
from runtime.errors import RunStateError

RECORD = RunRecord(run_id="r1_flood_0", id="7", node="flood", slug="flood")


def test_a_run_that_goes_well_takes_five_steps() -> None:
    state = RunState.PENDING

    seen = [state := next_state(state, RunEvent(event)) for event in ("take", "start", "end", "complete")]

    assert seen == ["starting", "running", "storing", "complete"]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RunState, RunEvent)), ids=str)
def test_every_step_is_in_the_table_or_refused(state: RunState, event: RunEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(RunStateError, match=f"a run that is {state} cannot {event}"):
            next_state(state, event)


def test_only_a_failed_run_begins_again() -> None:
    assert {state for state, _ in TRANSITIONS if state in FINAL} == {RunState.FAILED}


def test_every_state_can_be_reached() -> None:
    assert set(RunState) == {RunState.PENDING, *TRANSITIONS.values()}


def test_callbacks_know_four_words() -> None:
    assert {state.word for state in RunState} == {"pending", "in-progress", "complete", "unsupported", "failed"}


@pytest.mark.parametrize("request_id", ["r1", "A-b_c", "0" * 64])
def test_a_run_id_shows_a_plain_request_id(request_id: str) -> None:
    assert run_id(request_id, "flood", 3) == f"{request_id}_flood_3"


@pytest.mark.parametrize("request_id", ["", "a.b", "a b", "*", "é", "x" * 65])
def test_a_run_id_is_one_token_of_a_subject_whatever_the_request_is_called(request_id: str) -> None:
    found = run_id(request_id, "flood", 0)

    assert is_run_id(found)
    assert found == run_id(request_id, "flood", 0)
    assert found != run_id(f"{request_id}x", "flood", 0)


@pytest.mark.parametrize("text", ["", "a", "a.b_flood_0", "r1_flood_x", "*", "r1_flood_0 "])
def test_what_is_no_run_id_is_told(text: str) -> None:
    assert not is_run_id(text)


def test_a_record_is_json_with_the_names_of_the_page() -> None:
    said = json.loads(RECORD.encode())

    assert list(said) == [
        "runId", "node", "slug", "state", "reason", "times", "callbacks", "id", "attempt", "failures", "redrive",
        "owner", "host", "image", "imageDigest", "versions", "exitCode", "signal", "detail", "artifacts", "leftOut",
        "locations", "callbackUrl",
    ]  # fmt: skip
    assert RunRecord.model_validate_json(RECORD.encode()) == RECORD


def test_a_record_of_a_later_version_is_read() -> None:
    said = {**json.loads(RECORD.encode()), "colour": "blue"}

    assert RunRecord.model_validate(said) == RECORD


def test_times_follow_the_states() -> None:
    record = RECORD
    for now_ms, event in enumerate(("take", "start", "end", "complete"), start=1):
        record = record.after(RunEvent(event), now_ms)

    assert (record.times.started, record.times.ended, record.times.finished) == (2, 3, 4)


def test_a_run_that_waits_again_has_no_times_of_the_attempt_before() -> None:
    running = RECORD.after(RunEvent.TAKE, 1).after(RunEvent.START, 2)

    assert running.after(RunEvent.LOSE, 3).times == RECORD.times


def test_a_record_is_small_whatever_a_model_does() -> None:
    files = tuple(Artifact(path=f"output/{number}", size=1, sha256="0" * 64) for number in range(MAX_ARTIFACTS + 7))

    record = RECORD.changed(detail="x" * 1_000_000).with_artifacts(files)

    assert (len(record.detail), len(record.artifacts), record.left_out) == (MAX_DETAIL, MAX_ARTIFACTS, 7)
    assert len(record.encode()) < 512 * 1024


def test_a_record_expires_when_its_time_has_come() -> None:
    record = RECORD.changed(times=RECORD.times.model_copy(update={"expires": 100}))

    assert [record.is_expired(now_ms) for now_ms in (99, 100)] == [False, True]
    assert not RECORD.is_expired(10**15)


def test_a_result_tells_where_the_outputs_are() -> None:
    record = RECORD.changed(
        state=RunState.TIMED_OUT,
        reason=Reason.TIMEOUT,
        locations=Locations(store="nats:runs", results="p/abc", export="p/abc/private/export.zip"),
    )

    assert record.result() == {
        "modelSlug": "flood",
        "status": "failed",
        "reason": "TIMEOUT",
        "detail": None,
        "resultsLocation": "nats:runs/p/abc",
        "exportLocation": "nats:runs/p/abc/private/export.zip",
        "runId": "r1_flood_0",
    }
