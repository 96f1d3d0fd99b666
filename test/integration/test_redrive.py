"""Dead letters given back, on a real nats-server and in memory: to whom, how often, and what is never lost."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runtime.bus.base import Bus, Delivery
from runtime.bus.memory import MemoryBroker
from runtime.bus.nats import NatsBus
from runtime.clock import SystemClock
from runtime.deadletter import attempts_from_header
from runtime.errors import BusError, NotFoundError
from runtime.inspection import letters
from runtime.inspection.letters import Letter, Wanted
from runtime.inspection.redrive import Redriver, Way
from runtime.spec import names
from test.support.letters import ENTRYPOINT, STREAM, Flow, envelope

# Largest message of the server, so that an input leaves no room for its dead letter.
MAX_PAYLOAD_BYTES = 8_192


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    made: Bus
    if request.param == "memory":
        made = MemoryBroker(SystemClock(), max_payload_bytes=MAX_PAYLOAD_BYTES).connect()
    else:
        server = request.getfixturevalue("start_nats_server")(max_payload=MAX_PAYLOAD_BYTES)
        made = await NatsBus.connect([server.url], name="redrive")
    yield made
    await made.close()


@pytest.fixture
async def flow(bus: Bus) -> AsyncIterator[Flow]:
    opened = await Flow(bus).open()
    yield opened
    await opened.close()


async def given_up(flow: Flow, data: bytes | None = None) -> Letter:
    """Return the letter of a message that `score` gave up and `audit` has handled."""
    await flow.send(envelope({"n": 1}) if data is None else data)
    await flow.die(await flow.take("score"))
    await flow.handle("audit")
    return await flow.the_letter()


async def redrive(flow: Flow, letter: Letter) -> Way:
    async with Redriver(flow.bus, STREAM) as redriver:
        return await redriver.redrive(letter)


def headers_of(delivery: Delivery) -> dict[str, str]:
    return dict(delivery.headers or {})


async def test_a_redriven_message_reaches_the_node_that_failed_and_no_other_reader(flow: Flow) -> None:
    letter = await given_up(flow)

    way = await redrive(flow, letter)

    again = await flow.handle("score")
    assert way == Way(subject=f"{STREAM}._redrive.score.entrypoint")
    assert (again.data, again.attempt) == (envelope({"n": 1}), 1)
    assert await flow.letters() == []
    await flow.expect_nothing("audit")
    await flow.expect_nothing("score")


async def test_a_redrive_is_no_repetition_for_the_dedup_window_and_keeps_the_origin(flow: Flow) -> None:
    letter = await given_up(flow)
    for redrives in (1, 2, 3):
        await redrive(flow, letter)

        again = await flow.take("score")

        found = headers_of(again)
        assert found["Nats-Msg-Id"] == f"score.1.in0#r{redrives}"
        assert (found["Krt-Origin"], found["Krt-Redrive"]) == ("1", str(redrives))
        await flow.die(again, origin=1, redrive=redrives)
        letter = await flow.the_letter()
    assert letter.letter.sequence == again.sequence == 4


async def test_the_attempts_before_travel_with_the_message(flow: Flow) -> None:
    letter = await given_up(flow)

    await redrive(flow, letter)

    again = await flow.handle("score")
    assert attempts_from_header(headers_of(again)["Krt-Attempts"]) == letter.letter.attempts


async def test_a_message_that_was_given_up_without_an_attempt_has_its_error_in_the_history(flow: Flow) -> None:
    await flow.send(b"\xff")
    await flow.die(await flow.take("score"), attempts=(), reason="protobuf", error="DecodeError: no envelope")
    letter = await flow.the_letter()

    await redrive(flow, letter)

    [attempt] = attempts_from_header(headers_of(await flow.handle("score"))["Krt-Attempts"])
    assert (attempt.error, attempt.redrive) == ("DecodeError: no envelope", 0)


async def test_a_redrive_that_ended_before_the_letter_was_deleted_can_be_repeated(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = await given_up(flow)

    async def killed(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch, pytest.raises(asyncio.CancelledError):
        patch.setattr(flow.bus, "delete_message", killed)
        await redrive(flow, letter)
    left = await flow.letters()
    await redrive(flow, letter)

    assert left == [letter]
    assert await flow.letters() == []
    await flow.handle("score")
    await flow.expect_nothing("score")


async def test_two_who_redrive_the_same_letter_redrive_it_once(flow: Flow) -> None:
    letter = await given_up(flow)

    await asyncio.gather(redrive(flow, letter), redrive(flow, letter))

    await flow.handle("score")
    await flow.expect_nothing("score")


async def test_an_input_that_was_too_large_for_its_letter_is_taken_from_the_stream(flow: Flow) -> None:
    data = os.urandom(MAX_PAYLOAD_BYTES - 1_000)
    letter = await given_up(flow, data)
    assert (letter.letter.left_out, letter.body) == (True, b"")

    await redrive(flow, letter)

    assert (await flow.handle("score")).data == data


async def test_an_input_that_was_left_out_and_purged_is_told_as_lost_and_its_letter_stays(flow: Flow) -> None:
    letter = await given_up(flow, os.urandom(MAX_PAYLOAD_BYTES - 1_000))
    await flow.bus.purge(STREAM, below=2)

    with pytest.raises(NotFoundError, match=r"message 1 of local_dev_flow has been purged: it is lost; drop"):
        await redrive(flow, letter)

    assert await flow.letters() == [letter]


async def test_an_empty_input_is_redriven_as_one(flow: Flow) -> None:
    letter = await given_up(flow, b"")
    await flow.bus.purge(STREAM, below=2)

    await redrive(flow, letter)

    assert (await flow.handle("score")).data == b""


async def test_a_bare_runner_gets_its_message_on_the_input_subject_and_its_other_readers_are_named(bus: Bus) -> None:
    flow = await Flow(bus).open(redrives=False)
    letter = await given_up(flow)

    way = await redrive(flow, letter)

    assert way == Way(subject=ENTRYPOINT, others=("audit__entrypoint",))
    assert (await flow.handle("score")).data == (await flow.handle("audit")).data == envelope({"n": 1})
    await flow.close()


async def test_a_letter_whose_node_is_gone_stays_where_it_is(flow: Flow) -> None:
    letter = await given_up(flow)
    await flow.readers.pop("score").close()
    await flow.bus.delete_consumer(STREAM, "score__entrypoint")

    with pytest.raises(NotFoundError, match=r'node "score" does not read local_dev_flow\.entrypoint any more'):
        await redrive(flow, letter)

    assert await flow.letters() == [letter]


async def test_letters_are_found_by_node_reason_and_time(flow: Flow) -> None:
    for number, (node, reason) in enumerate([("score", "failed"), ("audit", "failed"), ("score", "timeout")]):
        await flow.send(envelope({"n": number}), message_id=f"r{number}")
        taken = {name: await flow.take(name) for name in ("score", "audit")}
        await flow.die(taken[node], node, reason=reason)
    first, second, third = await flow.letters()

    async def ids(**fields: Any) -> list[int]:
        return [letter.id for letter in await flow.letters(Wanted(**fields))]

    assert await ids(node="score") == [1, 3]
    assert await ids(node="score", reason="timeout") == [3]
    assert await ids(since_ns=second.died_ns) == [2, 3]
    assert await ids(until_ns=second.died_ns) == [1]
    assert await ids(since_ns=first.died_ns, until_ns=third.died_ns) == [1, 2]


async def test_a_letter_is_got_by_its_id_and_dropped_once(flow: Flow) -> None:
    letter = await given_up(flow)

    found = await letters.get(flow.bus, STREAM, letter.id)
    assert (found.id, found.letter, found.body) == (letter.id, letter.letter, letter.body)
    await letters.drop(flow.bus, STREAM, letter)
    await letters.drop(flow.bus, STREAM, letter)

    with pytest.raises(NotFoundError, match="there is no dead letter 1"):
        await letters.get(flow.bus, STREAM, letter.id)


async def test_a_message_that_is_no_letter_is_passed_over(flow: Flow, caplog: pytest.LogCaptureFixture) -> None:
    letter = await given_up(flow)
    publisher = flow.bus.publisher(names.dead_letter_stream(STREAM))
    await publisher.publish(f"{STREAM}_dlq.score", b"x", message_id="x", confirm=lambda error: None)
    await publisher.flush()

    found = await flow.letters()

    assert found == [letter]
    assert "message 2 on local_dev_flow_dlq.score is no dead letter of ours" in caplog.text
    with pytest.raises(BusError, match="is no dead letter of ours"):
        await letters.get(flow.bus, STREAM, 2)
    await publisher.close()
