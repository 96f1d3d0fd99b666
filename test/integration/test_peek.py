"""Peeking into a stream, on a real nats-server and in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runtime.bus.base import Bus, Confirmation
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.bus.stored import StoredMessage
from runtime.clock import SystemClock
from runtime.errors import NotFoundError
from runtime.inspection import peek
from test.support.letters import ENTRYPOINT, PATIENCE_S, STREAM, Flow, envelope


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    made: Bus = (
        MemoryBroker(SystemClock()).connect()
        if request.param == "memory"
        else await NatsBus.connect([request.getfixturevalue("nats_server").url], name="peek")
    )
    yield made
    await made.close()


@pytest.fixture
async def flow(bus: Bus) -> AsyncIterator[Flow]:
    opened = await Flow(bus).open()
    yield opened
    await opened.close()


async def store(flow: Flow, subject: str, count: int) -> None:
    publisher = flow.bus.publisher(STREAM)
    for number in range(count):
        stored = Confirmation()
        message_id = f"{subject}.{number}"
        await publisher.publish(subject, envelope({"n": number}), message_id=message_id, confirm=stored)
    await publisher.flush()
    await publisher.close()


def sequences(messages: list[StoredMessage]) -> list[int]:
    return [message.sequence for message in messages]


async def test_the_first_and_the_last_messages_of_a_node_are_found_among_many(flow: Flow) -> None:
    await store(flow, f"{STREAM}.score", 5)
    await store(flow, f"{STREAM}.score.unsure", 2)
    await store(flow, f"{STREAM}.clean", 1_000)
    subjects = peek.output_subjects(STREAM, "score")

    assert sequences(await peek.first(flow.bus, STREAM, subjects, 2)) == [1, 2]
    assert sequences(await peek.last(flow.bus, STREAM, subjects, 3)) == [5, 6, 7]
    assert sequences(await peek.last(flow.bus, STREAM, subjects, 100)) == [1, 2, 3, 4, 5, 6, 7]
    assert sequences(await peek.last(flow.bus, STREAM, peek.output_subjects(STREAM, "score.unsure"), 9)) == [6, 7]
    assert sequences(await peek.last(flow.bus, STREAM, peek.output_subjects(STREAM, "clean"), 1)) == [1007]
    assert await peek.last(flow.bus, STREAM, peek.output_subjects(STREAM, "other"), 5) == []


async def test_the_input_of_a_node_is_what_its_consumer_reads(flow: Flow) -> None:
    assert await peek.input_subjects(flow.bus, STREAM, "score") == [ENTRYPOINT, f"{STREAM}._redrive.score.entrypoint"]
    with pytest.raises(NotFoundError, match='no consumer of a node "clean"'):
        await peek.input_subjects(flow.bus, STREAM, "clean")


async def test_a_follower_gets_what_comes_and_nobody_notices(flow: Flow) -> None:
    await store(flow, ENTRYPOINT, 3)
    await flow.handle("score")
    in_hand = await flow.take("score")
    before = await flow.bus.consumer_states(STREAM)
    followed = peek.follow(flow.bus, STREAM, [f"{STREAM}.score"], 3)
    waiting = asyncio.ensure_future(anext(followed))

    await store(flow, f"{STREAM}.clean", 1)
    await store(flow, f"{STREAM}.score", 2)
    async with asyncio.timeout(PATIENCE_S):
        found = [await waiting, await anext(followed)]
    await followed.aclose()

    assert sequences(found) == [5, 6]
    assert await flow.bus.consumer_states(STREAM) == before
    flow.readers["score"].ack(in_hand)
