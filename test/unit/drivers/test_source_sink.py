"""The driver of many sources and sinks, on the in-memory bus, with time that stands still."""

import asyncio

from runtime.drivers.base import DriverState
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver
from runtime.drivers.sources.dummy import DummySource
from test.support.drivers import hosted


async def test_smoke() -> None:
    driver = SourceSinkDriver()
    sink = CollectSink()
    driver.add_source("in", DummySource(format={"n": int}, count=3, rate=None))
    driver.add_sink("out", sink)

    async with hosted(lambda: driver) as runner, asyncio.timeout(5):
        await runner.wait()

    assert runner.state is DriverState.FINISHED, runner.traceback
    assert len(sink.outputs) == 3
    print(sink.outputs, driver.counts())
