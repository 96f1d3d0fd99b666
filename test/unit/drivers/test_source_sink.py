"""The driver of many sources and sinks, on the in-memory bus, with time that stands still."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime import payload, wire
from runtime.bus.base import Bus, Confirmation
from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock, settle
from runtime.deadletter import HEADER, DeadLetter
from runtime.drivers.base import DriverState
from runtime.drivers.flow import Item, NotConnected, Sink, Source
from runtime.drivers.runner import DriverRunner
from runtime.drivers.sink_loop import ATTEMPTS
from runtime.drivers.sinks.collect import CollectSink
from runtime.drivers.source_sink import SourceSinkDriver, SourceSinkParameters
from runtime.drivers.sources.dummy import DummySource
from runtime.errors import InvalidParametersError
from runtime.message import Message, MessageType
from runtime.spec import names
from test.support.answering_node import NODE, AnsweringNode, stream_config
from test.support.drivers import STREAM, hosted


class Line(Source):
    """Sends what a test pushes, until it pushes the end."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.outcomes: list[str] = []
        self._inputs: asyncio.Queue[Any] = asyncio.Queue()

    def push(self, *inputs: Any) -> None:
        for each in inputs:
            self._inputs.put_nowait(each)

    def end(self) -> None:
        self._inputs.put_nowait(None)

    async def read(self) -> AsyncIterator[Any]:
        while (found := await self._inputs.get()) is not None:
            yield found if isinstance(found, Item) else Item(found, done=self.outcomes.append)


class Shaky(Sink):
    """Writes, unless a test has set what it raises."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.failure: Exception | None = None
        self.written: list[Any] = []
        self.attempts = 0
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1

    async def write(self, outputs: Any, item: Item) -> None:
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        self.written.append(outputs)


@pytest.fixture
async def bus(broker: MemoryBroker) -> AsyncIterator[Bus]:
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    yield bus
    await bus.close()


@pytest.fixture
async def node(broker: MemoryBroker, bus: Bus) -> AsyncIterator[AnsweringNode]:
    async with AnsweringNode(broker.connect(), STREAM) as node:
        yield node


def driver_of(sources: dict[str, Source], sinks: dict[str, Sink]) -> SourceSinkDriver:
    driver = SourceSinkDriver()
    for ref, source in sources.items():
        driver.add_source(ref, source)
    for ref, sink in sinks.items():
        driver.add_sink(ref, sink)
    return driver


async def finish(runner: DriverRunner) -> None:
    async with asyncio.timeout(5):
        await runner.wait()
    assert runner.state is DriverState.FINISHED, runner.traceback


def letters(broker: MemoryBroker) -> list[tuple[DeadLetter, Message]]:
    stream = broker.streams.stream(names.dead_letter_stream(STREAM))
    stored = [stream.get(sequence) for sequence in range(1, stream.state().last_sequence + 1)]
    return [(DeadLetter.from_header(each.headers[HEADER]), wire.decode(each.data)) for each in stored]


# --- rate and room ---


async def test_a_rate_has_no_drift_and_no_burst_after_a_stall(bus: Bus, node: AnsweringNode, clock: FakeClock) -> None:
    sink = CollectSink()
    driver = driver_of({"in": DummySource(rate=10)}, {"out": sink})

    async with hosted(lambda: driver, bus, clock=clock):
        await settle()
        await clock.advance(300.05)
        await settle()
        assert len(sink.outputs) == 3001

        driver.set_parameters(SourceSinkParameters(rates={"in": 2.0}))
        await clock.advance(10.0)
        await settle()
        assert 3020 <= len(sink.outputs) <= 3023


async def test_nothing_more_is_read_while_as_many_are_in_flight_as_may_be(
    broker: MemoryBroker, bus: Bus, clock: FakeClock
) -> None:
    source = Line(max_in_flight=2)
    driver = driver_of({"in": source}, {"out": CollectSink()})
    source.push(*range(5))

    async with hosted(lambda: driver, bus, clock=clock) as runner:  # nobody answers
        await settle()

        assert (await bus.stream_state(STREAM)).messages == 2
        # The third was read, and waits for room.
        assert driver.counts()["source.in"].read == 3  # type: ignore[union-attr]  # a source's

        async with AnsweringNode(broker.connect(), STREAM):
            source.end()
            await finish(runner)

    assert driver.counters() == {"source.in.read": 5, "source.in.ok": 5, "sink.out.written": 5}


@pytest.mark.parametrize(("rule", "answered"), [("drop_oldest", [0, 1, 5]), ("drop_newest", [0, 1])])
async def test_an_overflow_drops_and_counts_what_the_rule_says(
    rule: str, answered: list[int], broker: MemoryBroker, bus: Bus, clock: FakeClock
) -> None:
    source, sink = Line(max_in_flight=2, overflow=rule), CollectSink()
    driver = driver_of({"in": source}, {"out": sink})

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        source.push(*range(6))
        await settle()
        await settle()
        async with AnsweringNode(broker.connect(), STREAM):
            source.end()
            await finish(runner)

    assert sink.outputs == answered
    assert source.outcomes.count("dropped") == 6 - len(answered)
    assert driver.counts()["source.in"].dropped == 6 - len(answered)  # type: ignore[union-attr]  # a source's


# --- ids, order, outcomes ---


async def test_a_state_id_is_the_items_else_the_sources_else_its_ref(
    bus: Bus, node: AnsweringNode, clock: FakeClock
) -> None:
    named, plain = Line(state_id="gate"), Line()
    driver = driver_of({"named": named, "plain": plain}, {"out": CollectSink()})
    named.push(1, Item(2, state_id="player-7", metadata={"unit": "m"}))
    plain.push(3)
    named.end()
    plain.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await finish(runner)

    ids = {payload.decode_value(message.payload): message.state_id for message in node.received}
    assert ids == {1: "gate", 2: "player-7", 3: "plain"}
    assert [dict(message.headers) for message in node.received if message.state_id == "player-7"] == [{"unit": "m"}]


async def test_outputs_of_one_state_id_keep_the_order_of_reading_whatever_that_of_the_answers(
    bus: Bus, clock: FakeClock
) -> None:
    requests: list[Message] = []
    source, sink = Line(), CollectSink()
    driver = driver_of({"in": source}, {"out": sink})
    source.push(Item(1, state_id="a"), Item(2, state_id="a"), Item(3, state_id="b"))
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        scan = await bus.scan(STREAM)
        requests = [wire.decode(stored.data) for stored in await scan.read()]
        for request in reversed(requests):
            bus.send(request.reply_to, wire.encode(request._replace(outcome="ok")))
            await settle()
        await finish(runner)

    assert sink.outputs == [3, 1, 2]


async def test_an_item_is_acknowledged_after_its_last_sink(bus: Bus, node: AnsweringNode, clock: FakeClock) -> None:
    source, slow = Line(), Shaky()
    slow.failure = NotConnected("not yet")
    driver = driver_of({"in": source}, {"quick": CollectSink(), "slow": slow})
    source.push(1)
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        assert source.outcomes == []

        slow.failure = None
        await clock.advance(1.0)
        await finish(runner)

    assert source.outcomes == ["ok"]


async def test_errors_go_to_the_sinks_that_want_them_and_are_counted(
    bus: Bus, node: AnsweringNode, clock: FakeClock
) -> None:
    source, plain, errors = Line(), CollectSink(), CollectSink(errors=True)
    driver = driver_of({"in": source}, {"plain": plain, "errors": errors})
    source.push({"error": "too dark"}, Item(None, fault="line 7 is not JSON"), 1)
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await finish(runner)

    assert plain.outputs == [1]
    assert [output["error"] for output in errors.outputs if output != 1] == ["too dark", "line 7 is not JSON"]
    counts: Any = driver.counts()["source.in"]
    assert (counts.read, counts.ok, counts.failed) == (3, 1, 2)
    assert source.outcomes == ["failed", "ok"]


async def test_every_output_of_a_request_reaches_the_sinks_that_its_source_feeds(
    bus: Bus, node: AnsweringNode, clock: FakeClock
) -> None:
    left, right, of_left, of_all = Line(), Line(), CollectSink(), CollectSink()
    driver = driver_of({"left": left, "right": right}, {"all": of_all})
    driver.add_sink("one", of_left, from_="left")
    left.push({"twice": True})
    right.push({"early": "wait"})
    left.end()
    right.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await finish(runner)

    assert [(item.source, item.number) for item in of_left.items] == [("left", 0), ("left", 1)]
    assert sorted((item.source, item.number) for item in of_all.items) == [
        ("left", 0), ("left", 1), ("right", 0), ("right", 1),
    ]  # fmt: skip


# --- failing sinks ---


async def test_a_sink_that_is_down_for_a_minute_loses_nothing(bus: Bus, node: AnsweringNode, clock: FakeClock) -> None:
    source, sink, other = Line(max_in_flight=3), Shaky(), CollectSink()
    sink.failure = NotConnected("the disk is away")
    driver = driver_of({"in": source}, {"shaky": sink, "other": other})
    source.push(*range(5))
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        await clock.advance(60.0)
        assert (sink.written, other.outputs) == ([], [0, 1, 2])

        sink.failure = None
        await clock.advance(60.0)
        await finish(runner)

    assert sink.written == other.outputs == list(range(5))
    assert 4 <= sink.opened <= 12


async def test_an_output_that_a_sink_refuses_becomes_a_dead_letter_and_the_rest_goes_on(
    broker: MemoryBroker, bus: Bus, node: AnsweringNode, clock: FakeClock
) -> None:
    source, sink, other = Line(), Shaky(), CollectSink()
    sink.failure = RuntimeError("no such column")
    driver = driver_of({"in": source}, {"shaky": sink, "other": other})
    source.push({"n": 1})

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        await clock.advance(60.0)
        assert (sink.attempts, other.outputs) == (ATTEMPTS, [{"n": 1}])

        sink.failure = None
        source.push({"n": 2})
        source.end()
        await finish(runner)

    ((letter, message),) = letters(broker)
    assert (letter.node, letter.reason, len(letter.attempts)) == ("tested", "sink", ATTEMPTS)
    assert letter.error == 'sink "shaky": RuntimeError: no such column'
    assert payload.decode_value(message.payload) == {"n": 1}
    assert sink.written == [{"n": 2}]
    assert source.outcomes == ["ok", "ok"]


# --- requests ---


async def test_an_answer_that_was_lost_on_its_way_is_found_in_the_stream(bus: Bus, clock: FakeClock) -> None:
    source, sink = Line(timeout=5.0), CollectSink()
    driver = driver_of({"in": source}, {"out": sink})
    source.push(1, 2)
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        await publish_outputs(bus, ["answered"])
        await clock.advance(6.0)
        await finish(runner)

    assert sink.outputs == ["answered"]
    assert source.outcomes == ["ok", "timeout"]


async def test_a_request_that_a_full_stream_refuses_is_sent_again_and_not_lost(
    broker: MemoryBroker, clock: FakeClock
) -> None:
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM, max_bytes=2_000))
    source, sink = Line(), CollectSink()
    driver = driver_of({"in": source}, {"out": sink})
    source.push("x" * 1_200, "y" * 1_200)
    source.end()

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        await settle()
        await clock.advance(70.0)
        assert source.outcomes.count("ok") == 0

        await bus.purge(STREAM, below=2)
        async with AnsweringNode(broker.connect(), STREAM):
            await clock.advance(60.0)
            await finish(runner)

    assert sink.outputs == ["y" * 1_200]
    assert source.outcomes == ["timeout", "ok"]
    counts: Any = driver.counts()["source.in"]
    assert counts.retried >= 1
    await bus.close()


async def publish_outputs(bus: Bus, values: list[Any]) -> None:
    """Store outputs of the first requests as the output node does, and answer nobody."""
    scan = await bus.scan(STREAM, subjects=[names.entrypoint_subject(STREAM)])
    requests = [wire.decode(stored.data) for stored in await scan.read()]
    publisher = bus.publisher(STREAM)
    for number, value in enumerate(values):
        output = requests[number]._replace(payload=payload.encode_value(value), from_node=NODE)
        stored = Confirmation()
        subject = names.node_subject(STREAM, NODE)
        await publisher.publish(subject, wire.encode(output), message_id=f"echo.{number}.0", confirm=stored)
        await stored
    await publisher.close()


# --- sinks that read the workflow ---


async def store_output(bus: Bus, message: Message, data: bytes | None = None) -> None:
    publisher = bus.publisher(STREAM)
    stored = Confirmation()
    subject = names.node_subject(STREAM, NODE)
    await publisher.publish(subject, data or wire.encode(message), message_id=message.request_id, confirm=stored)
    await stored
    await publisher.close()


async def test_a_sink_of_the_workflow_gets_every_output_once_over_restarts(
    broker: MemoryBroker, bus: Bus, clock: FakeClock
) -> None:
    sink = CollectSink()

    for number in range(2):
        driver = SourceSinkDriver()
        driver.add_sink("all", sink, from_="workflow")
        await store_output(bus, Message(request_id=f"r{number}", payload=payload.encode_value(number), state_id="s"))
        async with hosted(lambda: driver, bus, clock=clock) as runner, asyncio.timeout(5):  # noqa: B023 - made at once
            await sink.wait(number + 1)
            await settle()
            assert runner.state is DriverState.RUNNING

    assert sink.outputs == [0, 1]
    assert [(item.request_id, item.state_id) for item in sink.items] == [("r0", "s"), ("r1", "s")]


async def test_a_sink_of_the_workflow_leaves_errors_and_buries_what_cannot_be_read(
    broker: MemoryBroker, bus: Bus, clock: FakeClock
) -> None:
    sink, errors = CollectSink(), CollectSink(errors=True)
    driver = SourceSinkDriver()
    driver.add_sink("all", sink, from_="workflow")
    driver.add_sink("errors", errors, from_="workflow")
    await store_output(bus, Message(request_id="r0", type=MessageType.ERROR, error="too dark"))
    await store_output(bus, Message(request_id="r1"), data=b"\xff\xff")
    await store_output(bus, Message(request_id="r2", payload=payload.encode_value(2)))

    async with hosted(lambda: driver, bus, clock=clock), asyncio.timeout(5):
        await sink.wait(1)
        await errors.wait(2)
        await settle()

    assert sink.outputs == [2]
    assert errors.outputs == [{"error": "too dark", "request_id": "r0", "source": ""}, 2]
    assert [letter.error.partition(":")[0] for letter, _ in readable(broker)] == ['sink "all"', 'sink "errors"']


def readable(broker: MemoryBroker) -> list[tuple[DeadLetter, bytes]]:
    stream = broker.streams.stream(names.dead_letter_stream(STREAM))
    stored = [stream.get(sequence) for sequence in range(1, stream.state().last_sequence + 1)]
    found = [(DeadLetter.from_header(each.headers[HEADER]), each.data) for each in stored]
    return sorted(found, key=lambda each: each[0].error)


# --- failing sources, parameters ---


class Broken(Source):
    async def read(self) -> AsyncIterator[Any]:
        yield 1
        raise RuntimeError("the sensor burns")


async def test_a_source_that_fails_fails_the_driver_by_name(bus: Bus, node: AnsweringNode, clock: FakeClock) -> None:
    driver = driver_of({"in": Broken()}, {"out": CollectSink()})

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        async with asyncio.timeout(5):
            while runner.state is DriverState.RUNNING:
                await settle()

        assert runner.state is DriverState.FAILED
        assert runner.reason == 'source "in" failed: RuntimeError: the sensor burns'


async def test_rates_are_parameters_and_wrong_ones_are_refused(bus: Bus, node: AnsweringNode, clock: FakeClock) -> None:
    driver = driver_of({"in": DummySource(rate=1)}, {"out": CollectSink()})

    async with hosted(lambda: driver, bus, clock=clock) as runner:
        assert runner.get_parameters() == {"rates": {"in": 1.0}}
        runner.set_parameters({"rates": {"in": 5}})
        with pytest.raises(InvalidParametersError, match='there is no source "inn"'):
            runner.set_parameters({"rates": {"inn": 5}})
        with pytest.raises(InvalidParametersError, match="give a number above 0"):
            runner.set_parameters({"rates": {"in": -1}})

        assert runner.get_parameters() == {"rates": {"in": 5.0}}


def test_a_ref_is_a_name_and_is_given_once() -> None:
    driver = SourceSinkDriver()
    driver.add_source("in", Line())

    with pytest.raises(ValueError, match="taken"):
        driver.add_source("in", Line())
    with pytest.raises(ValueError, match="no name"):
        driver.add_sink("Out", CollectSink())
