"""What becomes of a message, by what happens to its runs; on a bus in memory, with models that are told how to end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.backend import Exit
from runtime.batch.parts import Stored
from runtime.batch.run import CallbackRecord, Reason, RunState
from runtime.batch.schemas import Schema
from runtime.batch.worker import Origin
from runtime.errors import (
    BackendUnavailableError,
    BusUnavailableError,
    CallbackError,
    ModelStartError,
    NotFoundError,
    PullError,
    Reject,
    RunStateError,
    StoreUnavailableError,
    Wait,
)
from runtime.payload import encode_value
from test.support.batch import OK, Bench

HOOK = "https://app.example/hook"
WITH_HOOK = {"id": "7", "configuration": {}, "callbackURL": HOOK}
RUN = "r1_flood_0"


def models(*slugs: str) -> dict[str, Any]:
    return {"models": [{"slug": slug} for slug in slugs], "configuration": {}}


async def test_a_run_goes_well_and_leaves_nothing_but_its_record(bench: Bench) -> None:
    worker = await bench.worker(OK, version="2.4", environment={"CONNECTOR_VERSION": "0.9"})

    result = await worker.handle({"days": 3})

    (told,) = result["runs"]
    assert result["id"] == "r1"
    assert (told["runId"], told["modelSlug"], told["status"], told["reason"]) == (RUN, "flood", "complete", None)
    record = await bench.record()
    assert (record.state, record.attempt, record.exit_code, record.owner) == (RunState.COMPLETE, 1, 0, "")
    assert (record.versions.model, record.versions.connector) == ("2.4", "0.9")
    assert [artifact.path for artifact in record.artifacts] == ["output/data.json"]
    assert told["resultsLocation"] == f"nats:runs/{record.locations.results}"
    assert record.times.expires == record.times.finished + 30 * 86_400_000
    assert worker.backend.removed == [RUN]
    assert worker.folders() == []


async def test_several_messages_of_one_request_are_runs_of_their_own(bench: Bench) -> None:
    worker = await bench.worker(OK, OK)

    results = [
        await worker.worker.handle(encode_value({"days": days}), Origin("r1", sequence=sequence))
        for sequence, days in ((17, 1), (18, 2), (18, 2))
    ]

    assert [result["runs"][0]["runId"] for result in results] == ["r1-17_flood_0", "r1-18_flood_0", "r1-18_flood_0"]
    assert [result["id"] for result in results] == ["r1", "r1", "r1"]
    assert len(worker.backend.jobs) == 2


async def test_the_model_finds_the_configuration_in_its_folder(bench: Bench) -> None:
    worker = await bench.worker()

    worker.begin({"days": 3})
    await bench.until_state(RunState.RUNNING)

    (job,) = worker.backend.jobs
    assert json.loads((job.input / "inputFile.json").read_bytes()) == {"days": 3}
    assert [list(folder.iterdir()) for folder in (job.output, job.log)] == [[], []]
    assert (job.command, job.limits.cpu, job.limits.network) == (("model",), 1.0, "none")


async def test_events_and_output_are_told_as_they_happen(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.backend.output = [("stdout", b"a\xff"), ("stderr", b"b" * 300_000)]
    states: list[str] = []
    pieces: list[tuple[str, int]] = []
    await bench.outside.subscribe(
        f"run.prod_v1_floods.{RUN}.event", lambda message: states.append(json.loads(message.data)["state"])
    )
    await bench.records.follow_output(RUN, lambda stream, data: pieces.append((stream, len(data))))

    await worker.handle()

    assert list(dict.fromkeys(states)) == ["pending", "starting", "running", "storing", "complete"]
    assert pieces == [("stdout", 2), ("stderr", 262_144), ("stderr", 37_856)]
    assert [(stream, len(data)) for stream, data in worker.storing.log] == [("stdout", 2), ("stderr", 300_000)]


# --- the failure table ---


async def test_an_invalid_request_is_a_dead_letter_with_a_failed_run_and_no_process(bench: Bench) -> None:
    worker = await bench.worker()

    with pytest.raises(Reject, match=r"Invalid model runner input JSON\. Details: "):
        await worker.handle({"configuration": 5, "id": "7", "callbackURL": HOOK})

    record = await bench.record()
    assert (record.state, record.reason, record.id) == (RunState.FAILED, Reason.INVALID_INPUT, "7")
    assert record.detail == 'Invalid model runner input JSON. Details: "configuration" is int, and has to be an object'
    assert worker.backend.jobs == []
    assert [told.state for told in worker.callbacks.told] == [RunState.FAILED]


async def test_an_input_that_does_not_fit_the_schema_is_told_with_every_fault(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"required": ["days"], "properties": {"rate": {"type": "number"}}}')
    worker = await bench.worker(schema=Schema.load(tmp_path / "input.json"))

    with pytest.raises(Reject, match=r"'days' is a required property; rate: 'x' is not of type 'number'"):
        await worker.handle({"rate": "x"})

    assert (await bench.record()).reason is Reason.INVALID_INPUT


async def test_an_invalid_request_that_comes_again_is_told_once(bench: Bench) -> None:
    worker = await bench.worker()
    invalid = {"configuration": 5, "callbackURL": HOOK}

    for _ in range(2):
        with pytest.raises(Reject):
            await worker.handle(invalid)

    assert len(worker.callbacks.told) == 1


async def test_a_cancel_in_answer_to_the_start_callback_starts_nothing(bench: Bench) -> None:
    worker = await bench.worker()
    worker.callbacks.answers = [False]

    result = await worker.handle(WITH_HOOK)

    record = await bench.record()
    assert (record.state, record.reason) == (RunState.CANCELLED, Reason.CANCELLED)
    assert (result["runs"][0]["status"], result["runs"][0]["reason"]) == ("failed", "CANCELLED")
    assert worker.backend.jobs == []
    assert record.callbacks.start.answer == "cancel"
    assert worker.folders() == []


async def test_the_start_callback_tells_what_will_run(bench: Bench) -> None:
    worker = await bench.worker(OK, backend="docker", image="registry.example/flood:2", version="2")

    await worker.handle(WITH_HOOK)

    (asked,) = worker.callbacks.asked
    assert (asked.state, asked.image, asked.versions.model) == (RunState.STARTING, "registry.example/flood:2", "2")
    assert (asked.callback_url, asked.callbacks.start.status) == (HOOK, "pending")


async def test_a_start_callback_that_has_to_fail_fails_the_run(bench: Bench) -> None:
    worker = await bench.worker()
    worker.callbacks.answers = [CallbackError("answered 404")]

    await worker.handle(WITH_HOOK)

    record = await bench.record()
    assert (record.state, record.reason, record.detail) == (RunState.FAILED, Reason.CALLBACK_REFUSED, "answered 404")


async def test_a_run_that_is_cancelled_while_pending_never_starts_and_is_told(bench: Bench) -> None:
    worker = await bench.worker()
    worker.backend.errors = [BackendUnavailableError("no daemon")]
    with pytest.raises(Wait):
        await worker.handle(WITH_HOOK)

    record = await bench.records.cancel(RUN)
    result = await worker.handle(WITH_HOOK)

    assert (record.state, record.reason) == (RunState.CANCELLED, Reason.CANCELLED)
    assert result["runs"][0]["reason"] == "CANCELLED"
    assert worker.backend.jobs == []
    assert [told.state for told in worker.callbacks.told] == [RunState.CANCELLED]


async def test_a_run_that_is_cancelled_while_it_is_pulled_is_not_started(bench: Bench) -> None:
    worker = await bench.worker()
    worker.backend.pulling = asyncio.Event()
    handling = worker.begin()
    await bench.until(lambda: worker.folders() == [RUN])

    await bench.records.cancel(RUN)
    await handling

    record = await bench.record()
    assert (record.state, record.detail) == (RunState.CANCELLED, "cancelled before it was started")
    assert (worker.backend.jobs, worker.folders()) == ([], [])


async def test_a_run_that_is_cancelled_while_it_runs_keeps_its_logs(bench: Bench) -> None:
    worker = await bench.worker()
    handling = worker.begin()
    await bench.until_state(RunState.RUNNING)
    await bench.until(lambda: RUN in worker.backend.running)

    await bench.records.cancel(RUN)
    await handling

    assert (await bench.record()).state is RunState.CANCELLED
    assert (worker.backend.stopped, worker.backend.removed) == ([RUN], [RUN])
    assert [record.reason for record in worker.storing.records] == [Reason.CANCELLED]


async def test_a_run_that_is_stored_or_has_ended_cannot_be_cancelled(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.storing.hold = asyncio.Event()
    handling = worker.begin()
    await bench.until_state(RunState.STORING)

    with pytest.raises(RunStateError, match="its outputs are being stored"):
        await bench.records.cancel(RUN)
    worker.storing.hold.set()
    await handling

    with pytest.raises(RunStateError, match="it is complete"):
        await bench.records.cancel(RUN)
    with pytest.raises(NotFoundError, match="there is no run 'r9_flood_0'"):
        await bench.records.cancel("r9_flood_0")


async def test_a_refused_pull_is_a_failed_run_with_its_reason(bench: Bench) -> None:
    worker = await bench.worker()
    worker.backend.errors = [PullError("no such image")]

    result = await worker.handle()

    assert (result["runs"][0]["status"], result["runs"][0]["reason"]) == ("failed", "PULL_FAILED")
    assert (await bench.record()).detail == "no such image"
    assert worker.folders() == []


async def test_an_image_that_is_not_allowed_is_not_pulled(bench: Bench) -> None:
    worker = await bench.worker(OK, backend="docker", image="a.example/flood:1", allowed_images=("a.example/*",))
    named = [{"slug": "x", "imageURL": "b.example/x:1"}, {"slug": "y", "imageURL": "a.example/y:1"}]

    result = await worker.handle({"models": named, "configuration": {}})

    assert [(run["modelSlug"], run["reason"]) for run in result["runs"]] == [("x", "IMAGE_NOT_ALLOWED"), ("y", None)]
    assert [job.image for job in worker.backend.jobs] == ["a.example/y:1"]


async def test_a_command_runs_no_image_of_a_request(bench: Bench) -> None:
    worker = await bench.worker()

    result = await worker.handle({"models": [{"slug": "x", "imageURL": "a.example/x:1"}], "configuration": {}})

    assert result["runs"][0]["reason"] == "IMAGE_NOT_ALLOWED"
    assert worker.backend.jobs == []


async def test_an_absent_daemon_is_waited_for_and_then_the_run_goes_on(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.backend.errors = [BackendUnavailableError("no daemon"), BackendUnavailableError("no daemon"), None]
    pauses = []

    for _ in range(2):
        with pytest.raises(Wait) as waiting:
            await worker.handle()
        pauses.append((waiting.value.first_s, (await bench.record()).state))
    await worker.handle()

    assert pauses == [(1.0, RunState.PENDING), (2.0, RunState.PENDING)]
    assert (await bench.record()).state is RunState.COMPLETE


async def test_a_daemon_that_stays_absent_is_a_failed_run_and_a_dead_letter(bench: Bench) -> None:
    worker = await bench.worker()
    worker.backend.errors = [BackendUnavailableError("no daemon")] * 3
    for _ in range(2):
        with pytest.raises(Wait):
            await worker.handle(WITH_HOOK)

    with pytest.raises(Reject, match="BACKEND_UNAVAILABLE: no daemon"):
        await worker.handle(WITH_HOOK)

    record = await bench.record()
    assert (record.state, record.reason) == (RunState.FAILED, Reason.BACKEND_UNAVAILABLE)
    assert [told.reason for told in worker.callbacks.told] == [Reason.BACKEND_UNAVAILABLE]
    assert len(worker.callbacks.asked) == 1


async def test_a_redriven_message_begins_again_what_something_absent_has_ended(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.backend.errors = [BackendUnavailableError("no daemon")] * 3
    for _ in range(3):
        with pytest.raises((Wait, Reject)):
            await worker.handle()
    with pytest.raises(Reject):
        await worker.handle()

    result = await worker.handle(redrive=1)

    assert result["runs"][0]["status"] == "complete"
    assert (await bench.record()).attempt == 4


@pytest.mark.parametrize(
    ("ended", "state", "reason"),
    [
        (Exit(code=10), RunState.UNSUPPORTED, Reason.UNSUPPORTED_INPUT),
        (Exit(code=1, detail="exit code 1"), RunState.FAILED, Reason.EXIT_CODE),
        (Exit(code=None, signal="SIGSEGV", detail="ended by SIGSEGV"), RunState.FAILED, Reason.SIGNAL),
        (Exit(code=137, out_of_memory=True, detail="out of memory"), RunState.FAILED, Reason.OUT_OF_MEMORY),
    ],
    ids=["unsupported", "other code", "signal", "out of memory"],
)
async def test_the_exit_decides_and_what_there_is_is_stored_all_the_same(
    bench: Bench, ended: Exit, state: RunState, reason: Reason
) -> None:
    worker = await bench.worker(ended)

    result = await worker.handle()

    record = await bench.record()
    assert (record.state, record.reason, record.exit_code, record.signal) == (state, reason, ended.code, ended.signal)
    assert record.detail
    assert (result["runs"][0]["status"], result["runs"][0]["reason"]) == (state.word, reason)
    assert [stored.reason for stored in worker.storing.records] == [reason]
    assert len(record.artifacts) == 1


async def test_other_exit_codes_may_say_unsupported(bench: Bench) -> None:
    worker = await bench.worker(Exit(code=3), unsupported=(3, 4))

    await worker.handle()

    assert (await bench.record()).state is RunState.UNSUPPORTED


@pytest.mark.parametrize(
    "reason", [Reason.INVALID_OUTPUT, Reason.OUTPUT_LIMIT, Reason.NO_SPACE, Reason.UNSAFE_OUTPUT], ids=str
)
async def test_outputs_that_are_wrong_fail_a_run_that_went_well(bench: Bench, reason: Reason) -> None:
    worker = await bench.worker(OK)
    worker.storing.outcomes = [Stored(reason=reason, detail="data.json is missing")]

    await worker.handle()

    record = await bench.record()
    assert (record.state, record.reason, record.detail) == (RunState.FAILED, reason, "data.json is missing")


async def test_what_the_exit_code_says_comes_before_what_the_outputs_say(bench: Bench) -> None:
    worker = await bench.worker(Exit(code=10))
    worker.storing.outcomes = [Stored(reason=Reason.INVALID_OUTPUT, detail="data.json is missing")]

    await worker.handle()

    assert (await bench.record()).reason is Reason.UNSUPPORTED_INPUT


async def test_a_run_that_takes_too_long_is_stopped_and_timed_out(bench: Bench) -> None:
    worker = await bench.worker(timeout_s=20.0)
    handling = worker.begin()
    await bench.until_state(RunState.RUNNING)
    await bench.until(lambda: RUN in worker.backend.running)

    await bench.pass_time(20)
    result = await handling

    record = await bench.record()
    assert (record.state, record.reason, record.detail) == (
        RunState.TIMED_OUT, Reason.TIMEOUT, "it ran longer than 20 s",
    )  # fmt: skip
    assert (result["runs"][0]["status"], worker.backend.stopped) == ("failed", [RUN])


async def test_a_model_that_cannot_be_started_fails(bench: Bench) -> None:
    worker = await bench.worker()
    worker.backend.start_errors = [ModelStartError("no such file: model")]

    await worker.handle()

    record = await bench.record()
    assert (record.state, record.reason) == (RunState.FAILED, Reason.START_FAILED)


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("no bucket"), BusUnavailableError("no NATS"), OSError("no disk")], ids=str
)
async def test_a_store_that_comes_back_is_waited_for(bench: Bench, error: Exception) -> None:
    worker = await bench.worker(OK)
    worker.storing.outcomes = [error, error]
    handling = worker.begin()
    await bench.until(lambda: len(worker.storing.records) == 1)

    await bench.pass_time(3)
    await handling

    assert (await bench.record()).state is RunState.COMPLETE
    assert (len(worker.storing.records), len(worker.backend.jobs)) == (3, 1)


async def test_a_store_that_stays_away_fails_the_run_and_keeps_its_files(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.storing.outcomes = [StoreUnavailableError("no bucket")] * 3
    handling = worker.begin()
    await bench.until(lambda: len(worker.storing.records) == 1)

    await bench.pass_time(3)
    result = await handling

    record = await bench.record()
    assert (record.state, record.reason) == (RunState.FAILED, Reason.STORE_FAILED)
    assert result["runs"][0]["reason"] == "STORE_FAILED"
    assert worker.folders() == [RUN]


async def test_a_refused_completion_callback_leaves_the_run_complete_and_the_callback_pending(bench: Bench) -> None:
    worker = await bench.worker(OK)
    worker.callbacks.ends = [CallbackRecord(status="pending", state="complete", answer="500", tries=4, next=2**45)]

    result = await worker.handle(WITH_HOOK)
    await worker.handle(WITH_HOOK)

    record = await bench.record()
    assert (record.state, result["runs"][0]["status"]) == (RunState.COMPLETE, "complete")
    assert (record.callbacks.end.status, record.callbacks.end.answer) == ("pending", "500")
    assert len(worker.callbacks.told) == 1


async def test_no_room_for_the_folders_fails_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await bench.worker()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.batch.workspace.Workspace.make", full)

    await worker.handle()

    assert (await bench.record()).reason is Reason.NO_SPACE


# --- several models, several deliveries, several workers ---


async def test_the_models_of_a_request_run_at_once_within_the_limit(bench: Bench) -> None:
    worker = await bench.worker(limits={"parallel": 2})
    handling = worker.begin(models("a", "b", "c"))
    await bench.until(lambda: len(worker.backend.running) == 2)

    for number in range(3):
        await bench.until(lambda run_id=f"r1_flood_{number}": run_id in worker.backend.running)  # type: ignore[misc]
        worker.backend.end(f"r1_flood_{number}")
    result = await handling

    assert [run["modelSlug"] for run in result["runs"]] == ["a", "b", "c"]
    assert worker.backend.most_at_once == 2


async def test_one_model_that_fails_stops_no_other(bench: Bench) -> None:
    worker = await bench.worker()
    handling = worker.begin(models("a", "b", "c"))
    await bench.until(lambda: len(worker.backend.running) == 3)

    worker.backend.end("r1_flood_1", Exit(code=1))
    for number in (0, 2):
        worker.backend.end(f"r1_flood_{number}")
    result = await handling

    assert [run["status"] for run in result["runs"]] == ["complete", "failed", "complete"]


async def test_a_model_that_waits_runs_again_without_the_others(bench: Bench) -> None:
    worker = await bench.worker(OK, OK, OK)
    worker.backend.errors = [None, BackendUnavailableError("no daemon")]

    with pytest.raises(Wait):
        await worker.handle(models("a", "b"))
    result = await worker.handle(models("a", "b"))

    assert [run["status"] for run in result["runs"]] == ["complete", "complete"]
    assert len(worker.backend.jobs) == 2


async def test_a_message_that_comes_again_gets_the_same_result_and_starts_nothing(bench: Bench) -> None:
    worker = await bench.worker(OK)

    first = await worker.handle(WITH_HOOK)
    second = await worker.handle(WITH_HOOK)

    assert first == second
    assert len(worker.backend.jobs) == 1
    assert (len(worker.callbacks.asked), len(worker.callbacks.told)) == (1, 1)


@pytest.mark.parametrize("owner", ["there/1/1", "elsewhere/2/2"], ids=["same worker", "other worker"])
async def test_a_second_delivery_waits_for_the_run_of_the_first(bench: Bench, owner: str) -> None:
    worker = await bench.worker()
    other = worker if owner == "there/1/1" else await bench.worker(owner=owner, host="elsewhere")
    handling = worker.begin()
    await bench.until(lambda: RUN in worker.backend.running)

    with pytest.raises(Wait, match="is running at worker there/1/1"):
        await other.handle()
    worker.backend.end(RUN)
    result = await handling

    assert await other.handle() == result
    assert len(worker.backend.jobs + (other.backend.jobs if other is not worker else [])) == 1


async def test_a_run_whose_worker_is_gone_begins_again_elsewhere(bench: Bench) -> None:
    first = await bench.worker()
    first.begin()
    await bench.until(lambda: RUN in first.backend.running)
    first.bus.kill()
    second = await bench.worker(OK, owner="elsewhere/2/2", host="elsewhere")

    result = await second.handle()

    record = await bench.record()
    assert result["runs"][0]["status"] == "complete"
    assert (record.attempt, record.host) == (2, "elsewhere")


async def test_a_worker_that_has_lost_its_run_stops_its_process(bench: Bench) -> None:
    worker = await bench.worker()
    handling = worker.begin()
    await bench.until(lambda: RUN in worker.backend.running)
    kept = await bench.records.read(RUN)
    await bench.records.change(kept, kept.record.changed(owner="elsewhere/2/2"))

    worker.backend.end(RUN)

    with pytest.raises(Wait, match="was changed by somebody else"):
        await handling
    assert (worker.backend.running, (await bench.record()).owner) == ({}, "elsewhere/2/2")


async def test_after_a_time_without_nats_nobody_takes_what_another_may_have(bench: Bench) -> None:
    first = await bench.worker()
    first.begin()
    await bench.until(lambda: RUN in first.backend.running)
    second = await bench.worker(owner="elsewhere/2/2", host="elsewhere")
    bench.broker.streams.paused = True
    await bench.pass_time(20)

    bench.broker.streams.paused = False
    bench.broker.resumed_s = bench.clock.monotonic()

    with pytest.raises(Wait):
        await second.handle()
    assert second.backend.jobs == []


async def test_a_stopping_worker_gives_its_run_back_for_the_next_one(bench: Bench) -> None:
    worker = await bench.worker()
    worker.begin()
    await bench.until(lambda: RUN in worker.backend.running)

    await worker.stop()
    record = await bench.record()
    next_one = await bench.worker(OK, owner="elsewhere/2/2", host="elsewhere")
    result = await next_one.handle()

    assert (record.state, record.owner, record.detail) == (RunState.PENDING, "", "its worker has stopped")
    assert (worker.backend.stopped, worker.backend.running) == ([RUN], {})
    assert result["runs"][0]["status"] == "complete"


@pytest.mark.parametrize(("host", "jobs"), [("there", 0), ("elsewhere", 1)])
async def test_what_was_only_to_be_stored_is_stored_where_its_files_are(bench: Bench, host: str, jobs: int) -> None:
    first = await bench.worker(OK)
    first.storing.hold = asyncio.Event()
    first.begin()
    await bench.until(lambda: len(first.storing.records) == 1)
    first.bus.kill()
    second = await bench.worker(OK, owner="other/2/2", host=host)

    result = await second.handle()

    record = await bench.record()
    assert result["runs"][0]["status"] == "complete"
    assert (len(second.backend.jobs), record.attempt) == (jobs, 1 + jobs)
