"""A feed on the in-memory bus: window, rate, results and stopping."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable

import pytest

from runtime.bus.memory import MemoryBroker
from runtime.cli.feed_run import Feeder, Result, Summary
from runtime.cli.inputs import Input
from runtime.client import Workflow
from runtime.clock import FakeClock, settle
from runtime.errors import ConfigError
from test.support.answering_node import AnsweringNode, stream_config

STREAM = "test_v1_hello"


@pytest.fixture
async def client(clock: FakeClock) -> AsyncIterator[Workflow]:
    broker = MemoryBroker(clock)
    await broker.connect().ensure_stream(stream_config(STREAM))
    async with Workflow(broker.connect(), STREAM, clock=clock) as client, AnsweringNode(broker.connect(), STREAM):
        yield client


@pytest.fixture
def results() -> list[Result]:
    return []


@pytest.fixture
def feeder(client: Workflow, clock: FakeClock, results: list[Result]) -> Feeder:
    return Feeder(client, clock, on_result=results.append, convert=lambda value: value, window=10, timeout_s=5.0)


def inputs(values: Iterable[object]) -> list[Input]:
    return [Input(index=index, line=index + 1, value=value) for index, value in enumerate(values)]


async def test_every_input_has_one_result(feeder: Feeder, results: list[Result]) -> None:
    summary = await feeder.run(inputs(range(100)))

    assert sorted((result.input.index, result.output) for result in results) == [(n, n) for n in range(100)]
    assert (summary.count, summary.failed, len(summary.latencies_s)) == (100, 0, 100)


async def test_failures_of_each_kind_are_recorded_and_do_not_end_the_feed(
    feeder: Feeder, clock: FakeClock, results: list[Result]
) -> None:
    bad_line = Input(index=3, line=4, fault="line 4 is not JSON")
    feeding = asyncio.create_task(
        feeder.run([*inputs([1, {"error": "boom"}, {"silent": True}]), bad_line, *inputs([float("nan")])])
    )
    await settle()
    await clock.advance(5.0)
    summary = await feeding

    assert summary.outcomes == {"ok": 1, "failed": 1, "timeout": 1, "invalid": 2}
    assert summary.failed == 4
    details = {(result.outcome, result.detail) for result in results if not result.is_ok}
    assert ("failed", "boom") in details
    assert ("invalid", "line 4 is not JSON") in details
    assert ("invalid", "line 1: nan has no form in JSON") in details


async def test_no_more_than_the_window_is_in_flight(feeder: Feeder, clock: FakeClock) -> None:
    feeding = asyncio.create_task(feeder.run(inputs([{"silent": True}] * 25)))
    await settle()

    assert feeder.in_flight == 10
    for _ in range(3):
        await clock.advance(5.0)
    assert (await feeding).outcomes == {"timeout": 25}


async def test_stopping_waits_for_what_is_in_flight_and_stopping_again_leaves_it(
    feeder: Feeder, results: list[Result]
) -> None:
    feeding = asyncio.create_task(feeder.run(inputs([1, *[{"silent": True}] * 30])))
    await settle()

    feeder.stop()
    await settle()
    assert not feeding.done()
    feeder.stop()
    summary = await feeding

    assert summary.is_interrupted
    assert summary.outcomes == {"ok": 1, "cancelled": 10}
    assert len(results) == 11


async def test_a_result_that_cannot_be_written_ends_the_feed(client: Workflow, clock: FakeClock) -> None:
    def full_disk(_: Result) -> None:
        raise ConfigError("out.jsonl: No space left on device")

    feeder = Feeder(client, clock, on_result=full_disk, convert=lambda value: value, window=10, timeout_s=5.0)

    with pytest.raises(ConfigError, match="No space left"):
        await feeder.run(inputs(range(100)))


# --- summary ---


def test_percentiles_are_latencies_that_occurred() -> None:
    summary = Summary(latencies_s=array("d", [number / 1000 for number in range(100, 0, -1)]))

    assert summary.percentiles_ms(50, 95, 99, 100) == [50.0, 95.0, 99.0, 100.0]
    assert Summary(latencies_s=array("d", [0.007])).percentiles_ms(50, 99) == [7.0, 7.0]
    assert Summary().percentiles_ms(50) == []


def test_throughput_counts_what_ended_per_second() -> None:
    summary = Summary(duration_s=2.0)
    summary.outcomes.update(ok=6, failed=2)

    assert (summary.throughput, Summary().throughput) == (4.0, 0.0)


def test_a_record_tells_the_output_or_why_there_is_none() -> None:
    one = Input(index=4, line=6, value=1)

    good = Result(input=one, outcome="ok", latency_s=0.0123456, output={"a": 1})
    bad = Result(input=one, outcome="invalid", latency_s=None, detail="line 6 is not JSON")

    assert good.record() == {"index": 4, "line": 6, "ok": True, "output": {"a": 1}, "latency_ms": 12.346}
    assert bad.record() == {"index": 4, "line": 6, "ok": False, "outcome": "invalid", "error": "line 6 is not JSON"}
