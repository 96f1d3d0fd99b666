"""Core messages: subscriptions, queue groups, requests and the end of a connection."""

import asyncio

import pytest

from runtime.bus.base import Bus, CoreMessage
from runtime.bus.core import NO_RESPONDERS
from runtime.errors import BusClosedError, BusUnavailableError, NoRespondersError
from test.conformance.bus.backends import STREAM, Backend, soon
from test.support.waiting import until


async def test_a_subscription_hears_every_message_in_order(backend: Backend, bus: Bus) -> None:
    heard: list[CoreMessage] = []
    await bus.subscribe("news.*", heard.append)
    sender = await backend.connect()

    for number in range(100):
        sender.send(f"news.{number}", b"%d" % number, reply="answers.here", headers={"Number": str(number)})
        sender.send(f"other.{number}", b"")
    await until(lambda: len(heard) >= 100)

    assert [each.subject for each in heard] == [f"news.{number}" for number in range(100)]
    assert [each.data for each in heard] == [b"%d" % number for number in range(100)]
    assert {each.reply for each in heard} == {"answers.here"}
    assert [each.headers["Number"] for each in heard] == [str(number) for number in range(100)]


async def test_a_message_without_reply_and_headers_has_empty_ones(bus: Bus) -> None:
    heard: list[CoreMessage] = []
    await bus.subscribe("news", heard.append)

    bus.send("news", b"")
    await until(lambda: bool(heard))

    assert heard == [CoreMessage("news", b"", "", {})]


async def test_wildcards_select_as_nats_does(bus: Bus) -> None:
    heard: dict[str, list[str]] = {"a.*": [], "a.>": [], "*.b": [], ">": []}
    for pattern, subjects in heard.items():
        await bus.subscribe(pattern, lambda message, into=subjects: into.append(message.subject))  # type: ignore[misc]

    for subject in ("a", "a.b", "a.b.c", "c.b", "end.end.end"):
        bus.send(subject, b"")
    await until(lambda: "end.end.end" in heard[">"])

    assert heard["a.*"] == ["a.b"]
    assert heard["a.>"] == ["a.b", "a.b.c"]
    assert heard["*.b"] == ["a.b", "c.b"]
    assert [subject for subject in heard[">"] if not subject.startswith(("_INBOX", "$"))] == [
        "a", "a.b", "a.b.c", "c.b", "end.end.end",
    ]  # fmt: skip


async def test_one_member_of_each_queue_group_hears_a_message(backend: Backend, bus: Bus) -> None:
    heard: dict[str, list[bytes]] = {"red-1": [], "red-2": [], "blue": [], "plain": []}
    for name, into in heard.items():
        group = name.split("-")[0].replace("plain", "")
        await (await backend.connect()).subscribe("news", lambda message, to=into: to.append(message.data), queue=group)  # type: ignore[misc]
    numbers = [b"%d" % number for number in range(60)]

    for number in numbers:
        bus.send("news", number)
    await until(lambda: all(len(heard[name]) == 60 for name in ("blue", "plain")))
    await until(lambda: len(heard["red-1"] + heard["red-2"]) == 60)

    assert heard["plain"] == numbers
    assert heard["blue"] == numbers
    assert sorted(heard["red-1"] + heard["red-2"]) == sorted(numbers)
    # The member is chosen at random or in turn: that one of them hears none of 60 is a fault.
    assert heard["red-1"] and heard["red-2"]


async def test_nothing_is_heard_after_unsubscribe(backend: Backend, bus: Bus) -> None:
    heard: list[bytes] = []
    kept: list[bytes] = []
    subscription = await bus.subscribe("news", lambda message: heard.append(message.data))
    await bus.subscribe("news", lambda message: kept.append(message.data))
    bus.send("news", b"before")
    await until(lambda: kept == [b"before"])

    await soon(subscription.unsubscribe())

    bus.send("news", b"after")
    await until(lambda: kept == [b"before", b"after"])
    assert heard == [b"before"]


async def test_a_request_gets_the_answer(backend: Backend, bus: Bus) -> None:
    server = await backend.connect()

    def answer(message: CoreMessage) -> None:
        server.send(message.reply, b"re: " + message.data, headers={"Asked": message.headers["Name"]})

    await server.subscribe("ask", answer)

    answers = await soon(
        asyncio.gather(
            *(bus.request("ask", b"%d" % number, timeout_s=5.0, headers={"Name": str(number)}) for number in range(20))
        )
    )

    assert [each.data for each in answers] == [b"re: %d" % number for number in range(20)]
    assert [each.headers["Asked"] for each in answers] == [str(number) for number in range(20)]


async def test_a_request_that_nobody_hears_fails_at_once(bus: Bus) -> None:
    with pytest.raises(NoRespondersError):
        async with asyncio.timeout(1.0):
            await bus.request("ask", b"", timeout_s=30.0)


async def test_who_sends_with_a_reply_hears_that_nobody_listens(bus: Bus) -> None:
    answers: asyncio.Queue[CoreMessage] = asyncio.Queue()
    inbox = bus.new_inbox()
    await bus.subscribe(f"{inbox}.*", answers.put_nowait)

    bus.send("nobody", b"question", reply=f"{inbox}.7")

    answer = await asyncio.wait_for(answers.get(), 5)
    assert (answer.subject, answer.data) == (f"{inbox}.7", b"")
    assert answer.headers.items() >= NO_RESPONDERS.items()


async def test_a_request_without_an_answer_fails_after_its_time(bus: Bus) -> None:
    heard: list[CoreMessage] = []
    await bus.subscribe("ask", heard.append)

    with pytest.raises(BusUnavailableError):
        await soon(bus.request("ask", b"", timeout_s=0.2))

    assert len(heard) == 1


async def test_an_inbox_belongs_to_one_connection(backend: Backend, bus: Bus) -> None:
    other = await backend.connect()
    inboxes = [bus.new_inbox(), bus.new_inbox(), other.new_inbox()]
    heard: list[CoreMessage] = []
    await bus.subscribe(f"{inboxes[0]}.*", heard.append)

    for inbox in inboxes:
        other.send(f"{inbox}.1", b"")
    await until(lambda: bool(heard))

    assert len(set(inboxes)) == 3
    assert [each.subject for each in heard] == [f"{inboxes[0]}.1"]


async def test_a_closed_connection_says_so(backend: Backend, bus: Bus) -> None:
    heard: list[CoreMessage] = []
    await bus.subscribe("news", heard.append)
    waiting = asyncio.create_task(bus.wait_closed())
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()

    await soon(bus.close())

    await soon(waiting)
    with pytest.raises(BusClosedError):
        await bus.request("ask", b"", timeout_s=1.0)
    with pytest.raises(BusClosedError):
        await bus.stream_state(STREAM)
    bus.send("news", b"into the void")
    other, kept = await backend.connect(), list[bytes]()
    await other.subscribe("news", lambda message: kept.append(message.data))
    other.send("news", b"to the living")
    await until(lambda: bool(kept))
    assert (heard, kept) == ([], [b"to the living"])


async def test_what_was_sent_before_close_is_written_out(backend: Backend, bus: Bus) -> None:
    heard: list[bytes] = []
    await bus.subscribe("news", lambda message: heard.append(message.data))
    sender = await backend.connect()

    for number in range(100):
        sender.send("news", b"%d" % number)
    await soon(sender.close())

    await until(lambda: len(heard) >= 100)
    assert heard == [b"%d" % number for number in range(100)]
