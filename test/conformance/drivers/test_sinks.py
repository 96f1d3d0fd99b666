"""What every sink shows, built in or not: outputs are there in order once the driver says so, over several lives."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Bus
from runtime.clock import SystemClock
from runtime.drivers.base import DriverResourcesRequest, DriverState
from runtime.drivers.calls import Calls
from runtime.drivers.flow import Item, Sink, SinkParameters, Site, Source
from runtime.drivers.resources import Resources
from runtime.drivers.source_sink import SourceSinkDriver
from test.support.drivers import STREAM, echo_workflow, hosted
from test.support.sink_cases import CASES, SinkCase, Surroundings

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 10.0


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with echo_workflow() as bus:
        yield bus


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, bus: Bus, tmp_path: Path) -> AsyncIterator[SinkCase]:
    async with AsyncExitStack() as stack:
        yield await CASES[request.param](Surroundings(tmp_path, bus, stack))


class Numbers(Source):
    """Sends {"n": NUMBER} for some numbers, as requests of these ids, and notes what was acknowledged."""

    def __init__(self, numbers: range) -> None:
        super().__init__()
        self.outcomes: list[str] = []
        self._numbers = numbers

    def read(self) -> Iterator[Item]:
        for number in self._numbers:
            yield Item({"n": number}, request_id=f"request-{number}", done=self.outcomes.append)


async def write(bus: Bus, case: SinkCase, numbers: range) -> None:
    """Give a sink the outputs of a few requests, in a life of its own."""
    source, driver = Numbers(numbers), SourceSinkDriver()
    driver.add_source("in", source)
    driver.add_sink("tested", case.make())
    async with hosted(lambda: driver, bus) as runner, asyncio.timeout(PATIENCE_S):
        await runner.wait()
    assert runner.state is DriverState.FINISHED, runner.traceback
    assert source.outcomes == ["ok"] * len(numbers)


async def write_once_more(bus: Bus, sink: Sink, item: Item, output: Any) -> None:
    """Write an output as a driver does that has crashed before it could note the first time."""
    resources = Resources.bind(DriverResourcesRequest(), {}, listen="", address="", on_change=lambda: None)
    sink.site = Site(ref="tested", driver="tested", stream=STREAM, bus=bus, clock=SystemClock(), resources=resources)
    calls = Calls("tested")
    await calls.call(sink.open)
    await calls.call(sink.write, output, item)
    await calls.close(sink.close)
    calls.end()


def outputs(numbers: range) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


async def test_every_output_is_written_once_and_in_order(case: SinkCase, bus: Bus) -> None:
    await write(bus, case, range(5))

    assert await case.read_back() == outputs(range(5))


async def test_a_second_life_goes_on_behind_the_first(case: SinkCase, bus: Bus) -> None:
    await write(bus, case, range(3))
    await write(bus, case, range(3, 5))

    assert await case.read_back() == outputs(range(5))


async def test_an_output_that_comes_again_is_there_twice_only_where_the_sink_cannot_tell(
    case: SinkCase, bus: Bus
) -> None:
    await write(bus, case, range(2))

    # Not through a workflow: that would not answer the same request twice.
    await write_once_more(bus, case.make(), Item(None, request_id="request-1", source="in"), {"n": 1})

    assert await case.read_back() == outputs(range(2)) + ([] if case.is_idempotent else [{"n": 1}])


async def test_parameters_are_those_of_every_sink_and_others_are_refused(case: SinkCase) -> None:
    kind: Any = case.make().parameters

    assert set(SinkParameters.model_fields) <= set(kind.model_fields)
    with pytest.raises(ValueError, match="no_such_parameter"):
        kind(no_such_parameter=1)
