"""Files over restarts of the driver: nothing is skipped, and repeats are the same requests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.bus.base import Bus
from runtime.bus.memory import MemoryBroker
from runtime.clock import SystemClock, settle
from runtime.drivers.base import DriverState
from runtime.drivers.flow import Item, Sink
from runtime.drivers.inference import Inference
from runtime.drivers.resources import Resources
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver
from runtime.drivers.sources.file import FileSource
from runtime.drivers.sources.folder import FolderSource
from runtime.spec import names
from test.support.answering_node import stream_config
from test.support.drivers import STREAM, WORKFLOW, hosted
from test.support.storing_node import StoringNode

COUNT = 40


class Halting(Sink):
    """Writes until it has written so many, then hangs for ever: the driver is killed there."""

    def __init__(self, written: list[Any], count: int) -> None:
        super().__init__()
        self.hangs = asyncio.Event()
        self._written = written
        self._count = count

    async def write(self, outputs: Any, item: Item) -> None:
        if len(self._written) >= self._count:
            self.hangs.set()
            await asyncio.Event().wait()
        self._written.append(outputs)


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    broker = MemoryBroker(SystemClock())
    await broker.connect().ensure_stream(stream_config(STREAM))
    bus = broker.connect()
    yield bus
    await bus.close()


@pytest.fixture
async def node(bus: Bus) -> AsyncIterator[StoringNode]:
    async with StoringNode(bus) as node:
        yield node


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{number}\n" for number in range(COUNT)))
    return path


def replace_content(path: Path, content: str) -> None:
    path.write_text(content)


def driver_of(path: Path, sink: Sink, **values: Any) -> SourceSinkDriver:
    driver = SourceSinkDriver()
    driver.add_source("in", FileSource(path=path, max_in_flight=8, **values))
    driver.add_sink("out", sink)
    return driver


async def run_until_killed(bus: Bus, driver: SourceSinkDriver, moment: asyncio.Event) -> None:
    """Run a driver up to a moment and end it as a kill does: nothing that is left to do is done."""
    inference = Inference(bus, WORKFLOW, SystemClock(), driver="tested")
    resources = Resources.bind(driver.resources_request(), {}, listen="", address="", on_change=lambda: None)
    async with inference:
        running = asyncio.create_task(driver.run(inference, resources))
        async with asyncio.timeout(5):
            await moment.wait()
        for loop in driver._source_loops.values():
            loop._position._is_written = True  # a killed process writes nothing more
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def finish(bus: Bus, driver: SourceSinkDriver) -> None:
    async with hosted(lambda: driver, bus) as runner, asyncio.timeout(8):
        await runner.wait()
    assert runner.state is DriverState.FINISHED, runner.traceback


async def test_a_file_that_is_done_is_not_read_again_and_what_was_added_is(
    bus: Bus, node: StoringNode, path: Path
) -> None:
    sink = CollectSink()

    await finish(bus, driver_of(path, sink))
    await finish(bus, driver_of(path, sink))
    with path.open("a") as file:
        file.write("40\n")
    await finish(bus, driver_of(path, sink))

    assert sink.outputs == list(range(COUNT + 1))


async def test_without_resume_a_file_is_read_anew(bus: Bus, node: StoringNode, path: Path) -> None:
    sink = CollectSink()

    await finish(bus, driver_of(path, sink, resume=False))
    await finish(bus, driver_of(path, sink, resume=False))

    assert sink.outputs == [*range(COUNT), *range(COUNT)]


@pytest.mark.parametrize("written_before", [0, 1, 17])
async def test_after_a_kill_nothing_is_skipped_nothing_handled_twice_and_few_are_written_again(
    written_before: int, bus: Bus, node: StoringNode, path: Path
) -> None:
    written: list[Any] = []
    first = Halting(written, written_before)

    await run_until_killed(bus, driver_of(path, first, timeout=1.0), first.hangs)
    second = CollectSink()
    await finish(bus, driver_of(path, second, timeout=1.0))

    assert sorted({*written, *second.outputs}) == list(range(COUNT))
    assert second.outputs == sorted(second.outputs)
    # Written again is at most what was done in the 0.1 s between two writes of the position.
    assert len(set(second.outputs)) == len(second.outputs)
    assert set(node.handled.values()) == {1}
    assert len(node.handled) == COUNT


async def test_a_file_truncated_while_it_is_read_is_begun_anew(bus: Bus, node: StoringNode, path: Path) -> None:
    sink = CollectSink()
    driver = driver_of(path, sink, follow=True, poll=0.005)

    async with hosted(lambda: driver, bus), asyncio.timeout(5):
        await sink.wait(COUNT)
        replace_content(path, "100\n101\n")
        await sink.wait(COUNT + 2)

    assert sink.outputs == [*range(COUNT), 100, 101]


async def test_what_is_in_flight_when_a_driver_ends_is_not_cancelled_for_it_comes_again(bus: Bus, path: Path) -> None:
    told: list[bytes] = []
    await bus.subscribe(names.cancel_subject(STREAM), lambda message: told.append(message.data))
    sent = asyncio.Event()

    async def watch() -> None:
        while (await bus.stream_state(STREAM)).last_sequence < 8:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)
        sent.set()

    watching = asyncio.create_task(watch())
    await run_until_killed(bus, driver_of(path, CollectSink()), sent)
    await watching
    await settle()

    assert told == []


async def test_a_line_that_is_no_json_is_told_and_the_rest_is_read(bus: Bus, node: StoringNode, path: Path) -> None:
    replace_content(path, "1\n{oops\n2\n")
    sink = CollectSink(errors=True)

    await finish(bus, driver_of(path, sink))

    assert [output if isinstance(output, int) else output["error"][:31] for output in sink.outputs] == [
        1, "in.jsonl at byte 2 is not JSON:", 2,
    ]  # fmt: skip


async def test_a_missing_file_fails_the_driver_and_is_waited_for_when_followed(
    bus: Bus, node: StoringNode, tmp_path: Path
) -> None:
    missing, sink = tmp_path / "later.jsonl", CollectSink()

    async with hosted(lambda: driver_of(missing, sink), bus) as runner, asyncio.timeout(5):
        while runner.state is DriverState.RUNNING:  # noqa: ASYNC110 - its change is told to one listener only
            await asyncio.sleep(0.005)
        assert "later.jsonl: No such file" in runner.reason

    async with hosted(lambda: driver_of(missing, sink, follow=True, poll=0.005), bus), asyncio.timeout(5):
        missing.write_text("1\n")
        assert await sink.wait(1) == [1]


async def test_files_of_a_folder_come_once_over_restarts(bus: Bus, node: StoringNode, tmp_path: Path) -> None:
    sink = CollectSink()

    def driver() -> SourceSinkDriver:
        made = SourceSinkDriver()
        made.add_source("in", FolderSource(path=tmp_path, pattern="*.txt", format="text"))
        made.add_sink("out", sink)
        return made

    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
        await finish(bus, driver())

    assert sink.outputs == ["text 0", "text 1"]
    assert [dict(item.metadata) for item in sink.items] == [{"file": "0.txt"}, {"file": "1.txt"}]
