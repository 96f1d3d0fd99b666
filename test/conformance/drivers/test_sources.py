"""What every source shows, built in or not: its inputs come out once and in order, and it stops without a trace."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.bus.base import Bus
from runtime.bus.embedded import EmbeddedServer
from runtime.drivers.base import DriverState
from runtime.drivers.flow import Source, SourceParameters
from runtime.drivers.runner import DriverRunner
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver
from test.support.drivers import echo_workflow, hosted
from test.support.ports import free_port
from test.support.source_cases import CASES, COUNT, REF, SourceCase, Surroundings

# Seconds after which something that has to happen is taken for lost.
PATIENCE_S = 10.0


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with echo_workflow() as bus:
        yield bus


@pytest.fixture(params=CASES)
async def case(
    request: pytest.FixtureRequest, bus: Bus, tmp_path: Path, start_nats_server: Callable[..., EmbeddedServer]
) -> SourceCase:
    mqtt_port = 0
    if request.param == "mqtt":
        mqtt_port = free_port()
        # A nats-server is an MQTT broker, too.
        start_nats_server(server_name="broker", mqtt={"listen": f"127.0.0.1:{mqtt_port}"})
    return await CASES[request.param](Surroundings(tmp_path, bus, mqtt_port))


class Rig:
    """A driver with one source and a sink that collects."""

    def __init__(self, case: SourceCase) -> None:
        self.case = case
        self.sink = CollectSink(errors=True)
        self.driver = SourceSinkDriver()
        self.driver.add_source(REF, case.source)
        self.driver.add_sink("out", self.sink)
        self._is_open = asyncio.Event()
        self._watch_open(case.source)

    async def see_all(self, runner: DriverRunner) -> None:
        async with asyncio.timeout(PATIENCE_S):
            # A source that is fed from outside may miss what comes before it listens.
            await self._is_open.wait()
            while self.case.source.needs_port and not runner.services:  # noqa: ASYNC110 - told to nobody here
                await asyncio.sleep(0.002)
            await self.case.feed(runner)
            await self.sink.wait(COUNT)

    def _watch_open(self, source: Source) -> None:
        original, loop = source.open, asyncio.get_running_loop()

        async def open_async() -> None:
            await cast("Awaitable[None]", original())
            self._is_open.set()

        def open_plain() -> None:
            original()
            loop.call_soon_threadsafe(self._is_open.set)

        source.open = open_async if inspect.iscoroutinefunction(original) else open_plain  # type: ignore[method-assign]


async def test_every_input_comes_out_once_and_in_order(case: SourceCase, bus: Bus) -> None:
    rig = Rig(case)

    async with hosted(lambda: rig.driver, bus) as runner:
        await rig.see_all(runner)

    assert len(rig.sink.outputs) == COUNT
    if case.expected is not None:
        assert rig.sink.outputs == case.expected
    assert {item.source for item in rig.sink.items} == {REF}
    assert len({item.request_id for item in rig.sink.items}) == COUNT


async def test_a_source_with_an_end_finishes_its_driver_and_another_is_stopped(case: SourceCase, bus: Bus) -> None:
    rig = Rig(case)

    async with hosted(lambda: rig.driver, bus) as runner:
        await rig.see_all(runner)
        if case.is_finite:
            async with asyncio.timeout(PATIENCE_S):
                await runner.wait()
        else:
            assert runner.state is DriverState.RUNNING

    assert runner.state is (DriverState.FINISHED if case.is_finite else DriverState.STOPPED)
    assert not runner.traceback


async def test_a_stopped_source_leaves_nothing_behind(case: SourceCase, bus: Bus) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    rig = Rig(case)

    async with hosted(lambda: rig.driver, bus) as runner:
        await rig.see_all(runner)

    left = [task for task in asyncio.all_tasks() - tasks if not task.done()]
    if left:
        await asyncio.wait(left, timeout=PATIENCE_S)
    assert [task for task in left if not task.done()] == []
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith("asyncio_"):  # the loop's own pool
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), thread.name


async def test_a_rate_holds_the_source_back(case: SourceCase, bus: Bus) -> None:
    case.source.params = case.source.params.model_copy(update={"rate": 20.0})
    rig = Rig(case)
    loop = asyncio.get_running_loop()

    async with hosted(lambda: rig.driver, bus) as runner:
        started_s = loop.time()
        await rig.see_all(runner)

    # Ticks at 0, 50 and 100 ms.
    assert loop.time() - started_s >= (COUNT - 1) / 20.0


async def test_parameters_are_those_of_every_source_and_others_are_refused(case: SourceCase) -> None:
    kind: Any = case.source.parameters

    assert set(SourceParameters.model_fields) <= set(kind.model_fields)
    with pytest.raises(ValueError, match="no_such_parameter"):
        kind(no_such_parameter=1)
