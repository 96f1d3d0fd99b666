"""What a worker does beside its messages, on a bus in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime.batch.housekeeping import Housekeeping
from runtime.batch.records import Kept
from runtime.batch.run import CallbackRecord, Reason, RunState
from runtime.clock import settle
from runtime.errors import BackendUnavailableError, BusUnavailableError, RunStateError, StoreUnavailableError
from test.support.batch import OK, Bench, WorkerUnderTest

HOOK = "https://app.example/hook"
WITH_HOOK = {"id": "7", "configuration": {}, "callbackURL": HOOK}
RUN = "r1_flood_0"


@asynccontextmanager
async def house_of(worker: WorkerUnderTest) -> AsyncIterator[Housekeeping]:
    house = Housekeeping(worker.tools, worker.worker)
    running = asyncio.create_task(house.run())
    await settle()
    try:
        yield house
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def unstored(bench: Bench) -> WorkerUnderTest:
    """Return a worker with a run that could not be stored."""
    worker = await bench.worker(OK)
    worker.storing.outcomes = [StoreUnavailableError("no bucket")] * 3
    handling = worker.begin()
    await bench.until(lambda: len(worker.storing.records) == 1)
    await bench.pass_time(3)
    await handling
    return worker


async def test_folders_of_runs_that_have_ended_or_are_not_known_are_removed(bench: Bench) -> None:
    worker = await bench.worker(OK)
    await worker.handle()
    for name in (RUN, "gone_flood_0", "something-else"):
        (bench.work / name / "output").mkdir(parents=True)

    await Housekeeping(worker.tools, worker.worker).look()

    assert worker.folders() == ["something-else"]


async def test_folders_that_are_still_needed_stay(bench: Bench) -> None:
    worker = await unstored(bench)
    worker.begin(request_id="r2")
    await bench.until(lambda: "r2_flood_0" in worker.backend.running)

    await Housekeeping(worker.tools, worker.worker).look()

    assert worker.folders() == [RUN, "r2_flood_0"]


async def test_a_run_that_could_not_be_stored_is_stored_on_request(bench: Bench) -> None:
    worker = await unstored(bench)

    async with house_of(worker):
        await bench.records.store_again(RUN)
        await bench.until(lambda: worker.folders() == [])

    record = await bench.record()
    assert (record.state, record.reason, len(record.artifacts)) == (RunState.COMPLETE, None, 1)


async def test_only_what_could_not_be_stored_is_stored_again(bench: Bench) -> None:
    worker = await bench.worker(OK)
    await worker.handle()

    with pytest.raises(RunStateError, match="is complete, and has nothing that is still to be stored"):
        await bench.records.store_again(RUN)


async def test_files_that_no_worker_has_cannot_be_stored_again(bench: Bench) -> None:
    await unstored(bench)

    with pytest.raises(BusUnavailableError, match=f"no worker has the files of run '{RUN}', which are on host there"):
        await bench.records.store_again(RUN)


async def test_a_completion_that_nobody_has_taken_is_told_when_its_time_has_come(bench: Bench) -> None:
    worker = await bench.worker(OK, callback={"url": "{callbackURL}"})
    later_ms = worker.tools.records.now_ms() + 90_000
    worker.callbacks.ends = [CallbackRecord(status="pending", state="complete", tries=1, next=later_ms)]
    await worker.handle(WITH_HOOK)

    house = Housekeeping(worker.tools, worker.worker)
    await house.look()
    told_before = len(worker.callbacks.told)
    await bench.pass_time(91)
    await house.look()

    assert (told_before, len(worker.callbacks.told)) == (1, 2)
    assert (await bench.record()).callbacks.end.status == "sent"


async def test_what_dead_workers_have_left_is_ended_once_the_engine_answers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await bench.worker()
    recovered: list[str] = []
    answers: list[Exception | None] = [BackendUnavailableError("no daemon"), None]

    async def recover(owner: str) -> None:
        recovered.append(owner)
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(worker.backend, "recover", recover)
    house = Housekeeping(worker.tools, worker.worker)

    await house.start()
    await house.look()
    await house.look()

    assert recovered == ["there/1/1"] * 2


async def test_an_outage_does_not_end_the_housekeeping(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await unstored(bench)
    (bench.work / "gone_flood_0").mkdir()
    find, failures = worker.tools.records.find, [BusUnavailableError("no answer")]

    async def find_later(run_id: str) -> Kept | None:
        if failures:
            raise failures.pop()
        return await find(run_id)

    monkeypatch.setattr(worker.tools.records, "find", find_later)
    async with house_of(worker):
        await bench.until(lambda: not failures)
        await bench.until(lambda: worker.folders() == [RUN], advance_s=1.0)

    assert (await bench.record()).reason is Reason.STORE_FAILED
