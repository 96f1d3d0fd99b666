"""Many requests at once: answers by number, silence, nobody listening, and what is left behind."""

import asyncio
from typing import Any

import pytest

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.core import Question
from runtime.errors import BusClosedError, BusError, MessageTooLargeError, NoRespondersError
from test.conformance.bus.backends import SILENCE_S, Backend, soon
from test.support.waiting import until


class Ends:
    """What each question has ended with, in the order of the ends."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.of: dict[int, CoreMessage | BusError] = {}

    def __call__(self, number: int, end: CoreMessage | BusError) -> None:
        self.numbers.append(number)
        self.of[number] = end

    def texts(self) -> dict[int, str]:
        return {number: end.data.decode() for number, end in self.of.items() if isinstance(end, CoreMessage)}


async def echo(bus: Bus, subject: str) -> None:
    """Answer every request with its text and its header."""

    def answer(message: CoreMessage) -> None:
        bus.send(message.reply, message.data + message.headers.get("Name", "").encode())

    await bus.subscribe(subject, answer)


async def test_every_question_gets_its_own_answer(backend: Backend, bus: Bus) -> None:
    await echo(await backend.connect(), "ask.*")
    ends = Ends()
    shared = {"Name": "-a"}
    questions = [Question(f"ask.{number}", b"%d" % number, shared if number < 150 else None) for number in range(200)]

    scattered = await soon(bus.scatter(questions, ends))
    assert ends.numbers == []
    await until(lambda: len(ends.numbers) >= 200)
    scattered.close()

    assert ends.texts() == {number: f"{number}-a" if number < 150 else f"{number}" for number in range(200)}
    assert sorted(ends.numbers) == list(range(200))


async def test_a_question_that_nobody_hears_ends_at_once_and_harms_no_other(backend: Backend, bus: Bus) -> None:
    await echo(await backend.connect(), "ask.1")
    ends = Ends()

    scattered = await soon(bus.scatter([Question("ask.0", b"a"), Question("ask.1", b"b")], ends))
    assert ends.numbers == []
    await until(lambda: len(ends.numbers) >= 2)
    scattered.close()

    assert isinstance(ends.of[0], NoRespondersError)
    assert ends.texts() == {1: "b"}


async def test_nothing_is_heard_after_the_close(backend: Backend, bus: Bus) -> None:
    server = await backend.connect()
    asked: list[CoreMessage] = []
    await server.subscribe("ask", asked.append)
    ends = Ends()
    scattered = await soon(bus.scatter([Question("ask", b"first"), Question("ask", b"second")], ends))
    await until(lambda: len(asked) == 2)
    server.send(asked[0].reply, b"in time")
    await until(lambda: ends.numbers == [0])

    scattered.close()
    scattered.close()
    server.send(asked[1].reply, b"too late")
    answer = asyncio.create_task(bus.request("ask", b"third", timeout_s=5.0))
    await until(lambda: len(asked) == 3)
    server.send(asked[2].reply, b"another")

    assert (await soon(answer)).data == b"another"
    assert ends.texts() == {0: "in time"}


async def test_a_second_answer_to_one_question_is_not_told(backend: Backend, bus: Bus) -> None:
    server = await backend.connect()

    def twice(message: CoreMessage) -> None:
        server.send(message.reply, b"one")
        server.send(message.reply, b"two")

    await server.subscribe("ask", twice)
    ends = Ends()

    scattered = await soon(bus.scatter([Question("ask", b"")], ends))
    await until(lambda: bool(ends.numbers))
    await asyncio.sleep(SILENCE_S)
    scattered.close()

    assert ends.texts() == {0: "one"}
    assert ends.numbers == [0]


async def test_no_question_is_one_too(bus: Bus) -> None:
    ends = Ends()

    scattered = await soon(bus.scatter([], ends))
    scattered.close()

    assert ends.numbers == []


async def test_one_question_that_is_too_large_sends_none(backend: Backend, bus: Bus) -> None:
    server = await backend.connect()
    asked: list[CoreMessage] = []
    await server.subscribe("ask", asked.append)
    large = bytes(bus.max_payload_bytes)

    for refused in (
        [Question("ask", b"small"), Question("ask", large, {"Name": "a"})],
        [Question("ask", large + b".")],
    ):
        with pytest.raises(MessageTooLargeError):
            await soon(bus.scatter(refused, Ends()))
    with pytest.raises(MessageTooLargeError):
        await soon(bus.request("ask", large, timeout_s=5.0, headers={"Name": "a"}))
    scattered = await soon(bus.scatter([Question("ask", large)], Ends()))
    await until(lambda: bool(asked))
    scattered.close()

    assert [len(each.data) for each in asked] == [len(large)]


async def test_a_closed_connection_scatters_nothing(bus: Bus) -> None:
    await soon(bus.close())

    with pytest.raises(BusClosedError):
        await soon(bus.scatter([Question("ask", b"")], Ends()))
    assert bus.online_s == 0.0


async def test_a_connection_knows_how_long_it_has_been_there(bus: Bus) -> None:
    before_s = bus.online_s

    await asyncio.sleep(SILENCE_S)

    assert before_s + SILENCE_S * 0.9 < bus.online_s < before_s + 5.0


async def test_what_was_scattered_is_forgotten(backend: Backend, bus: Bus) -> None:
    """A call after the other must leave nothing behind, whether it was answered or not."""
    await echo(await backend.connect(), "ask.1")
    silent: list[Any] = []
    await (await backend.connect()).subscribe("ask.2", silent.append)
    kept = sizes(bus)

    for _ in range(20):
        ends = Ends()
        scattered = await soon(bus.scatter([Question("ask.1", b""), Question("ask.2", b"")], ends))
        await until(lambda ends=ends: bool(ends.numbers))  # type: ignore[misc]
        scattered.close()

    assert sizes(bus) == kept


def sizes(bus: Any) -> list[int]:
    """Count what the connection keeps for questions: subscriptions in memory, waiting replies on NATS."""
    broker = getattr(bus, "_broker", None)
    if broker is not None:
        return [len(broker.router._subscriptions)]
    return [len(bus._replies._waiting), len(bus._connection._outbox)]
