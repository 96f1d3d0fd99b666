"""The caller's side on the memory bus, with runners that the test plays."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from runtime.algorithms import Algorithms
from runtime.bus.base import Bus, CoreMessage
from runtime.bus.memory import MemoryBroker
from runtime.bus.presence import EXPIRY_S, ServiceRecord
from runtime.clock import FakeClock, settle
from runtime.errors import AlgorithmError

INSTANCE = "a1"


class FakeRunner:
    """Answers calls of `ocr` as the test says: `answers` gives the messages for each call."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.calls: list[CoreMessage] = []
        self.came = asyncio.Event()

    async def start(self) -> None:
        await self.bus.subscribe("algorithm.ocr.run", self._on_call, queue="algorithm.ocr")

    async def told(self, state: str = "serving") -> None:
        """Write the presence record."""
        offered = {"ocr": {"hash": "h", "version": "1.0.0", "doc": ""}}
        record = ServiceRecord(
            kind="algorithm", name="images", instance=INSTANCE, version="1", host="h", pid=1, started_ms=1,
            metadata={"state": state, "born": 1, "replaces": False, "algorithms": offered},
        )  # fmt: skip
        bucket = await self.bus.expiring_key_value("presence", ttl_s=EXPIRY_S)
        await bucket.put(f"algorithm.images.{INSTANCE}", record.encode())
        await settle()

    async def accept(self) -> None:
        body = json.dumps({"instance": INSTANCE}).encode()
        self.bus.send(self.calls[-1].reply, body, headers={"Krt-Status": "202"})
        await settle()

    def answer(self, data: bytes, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.bus.send(self.calls[-1].reply, data, headers=named)

    def _on_call(self, message: CoreMessage) -> None:
        self.calls.append(message)
        self.came.set()


class Table:
    def __init__(self, clock: FakeClock, client: Algorithms, runner: FakeRunner) -> None:
        self.clock = clock
        self.client = client
        self.runner = runner

    async def begin(self) -> "asyncio.Task[object]":
        """Begin a call, and return once the runner has it."""
        call: asyncio.Task[object] = asyncio.create_task(self.client.run("ocr", {"n": 1}, timeout=30))
        await asyncio.wait_for(self.runner.came.wait(), 5)
        return call


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    clock = FakeClock()
    broker = MemoryBroker(clock)
    runner = FakeRunner(broker.connect())
    await runner.start()
    await runner.told()
    async with Algorithms(broker.connect(), clock) as client:
        yield Table(clock, client, runner)


async def outcome(call: "asyncio.Task[object]") -> tuple[str, str]:
    with pytest.raises(AlgorithmError) as raised:
        await asyncio.wait_for(call, 5)
    return raised.value.outcome, raised.value.detail


async def test_a_call_says_what_runners_need(table: Table) -> None:
    call = await table.begin()
    table.runner.answer(b'{"result": [1]}', Krt_Runner="images", Krt_Version="1.0.0")

    assert await call == [1]
    headers = table.runner.calls[0].headers
    assert headers["Krt-Accept"] == "1" and len(headers["Krt-Request-Id"]) == 32
    assert int(headers["Krt-Deadline"]) == table.clock.time_ns() // 1_000_000 + 30_000
    assert table.runner.calls[0].data == b'{"n":1}'


async def test_an_instance_that_expires_ends_the_calls_that_it_has_taken(table: Table) -> None:
    call = await table.begin()
    await table.runner.accept()

    await table.clock.advance(EXPIRY_S + 0.1)

    assert await outcome(call) == ("unavailable", "runner instance a1 has gone before it has answered")


async def test_a_runner_that_drains_is_waited_for(table: Table) -> None:
    call = await table.begin()
    await table.runner.accept()
    await table.runner.told("draining")

    assert await table.client.list() == {}
    table.runner.answer(b'{"result": 1}')
    assert await call == 1


async def test_an_instance_that_nobody_has_heard_of_is_given_an_expiry(table: Table) -> None:
    await table.clock.advance(EXPIRY_S + 0.1)
    call = await table.begin()
    await table.runner.accept()

    await table.clock.advance(EXPIRY_S - 0.1)
    assert not call.done()
    await table.clock.advance(0.2)

    assert (await outcome(call))[0] == "unavailable"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"outcome": "busy", "detail": "full"}', ("busy", "full")),
        (b"oops", ("failed", "oops")),
        (b"", ("failed", "the answer is empty")),
        (b'{"outcome": "odd", "detail": "x"}', ("failed", '{"outcome": "odd", "detail": "x"}')),
    ],
)
async def test_a_service_error_is_raised_whoever_has_made_it(table: Table, data: bytes, said: tuple[str, str]) -> None:
    call = await table.begin()

    table.runner.answer(data, Nats_Service_Error_Code="500", Nats_Service_Error="x")

    assert await outcome(call) == said


@pytest.mark.parametrize("data", [b"[]", b"1", b"{}", b"no"])
async def test_an_answer_without_a_result_is_none(table: Table, data: bytes) -> None:
    call = await table.begin()

    table.runner.answer(data)

    assert (await outcome(call))[0] == "bad_implementation"


async def test_closing_ends_what_waits(table: Table) -> None:
    call = await table.begin()

    await table.client.close()

    assert await outcome(call) == ("unavailable", "the client was closed")


async def test_arguments_that_are_no_json_are_not_sent(table: Table) -> None:
    bad: Callable[[], object] = object

    call: asyncio.Task[object] = asyncio.create_task(table.client.run("ocr", {"n": bad()}))

    assert (await outcome(call))[0] == "invalid" and table.runner.calls == []


async def test_nobody_is_told_apart_from_never_heard_of(table: Table) -> None:
    call: asyncio.Task[object] = asyncio.create_task(table.client.run("scale"))

    assert await outcome(call) == ("unknown", 'no algorithm "scale" is known; there are: ocr')
