"""What may leave a stream, as a pure decision."""

import pytest

from runtime.bus.base import ConsumerState, StreamState
from runtime.deploy.retention import done_sequence, first_within_share, is_pressed, slowest


def consumer(name: str, *, floor: int, pending: int = 0, ack_pending: int = 0) -> ConsumerState:
    return ConsumerState(
        name=name, pending=pending, ack_pending=ack_pending, redelivered=0, ack_floor=floor, delivered=floor
    )


def stream(*, messages: int, size_bytes: int, first: int = 1) -> StreamState:
    return StreamState(messages, size_bytes, first, first + messages - 1)


def test_the_consumer_that_is_furthest_behind_decides() -> None:
    consumers = [consumer("a", floor=7, pending=3), consumer("b", floor=4, ack_pending=1)]

    assert done_sequence(10, consumers) == 4
    assert slowest(10, consumers) == consumers[1]


def test_a_consumer_that_has_caught_up_holds_back_nothing() -> None:
    consumers = [consumer("idle", floor=2), consumer("busy", floor=8, pending=2)]

    assert done_sequence(10, consumers) == 8
    assert slowest(10, consumers) == consumers[1]


def test_a_message_in_hand_holds_back_as_one_that_waits_does() -> None:
    assert done_sequence(10, [consumer("a", floor=2, ack_pending=1)]) == 2


def test_without_a_consumer_nothing_is_done() -> None:
    assert done_sequence(10, []) == 0
    assert slowest(10, []) is None


@pytest.mark.parametrize(
    ("state", "first"),
    [
        pytest.param(stream(messages=10, size_bytes=500, first=5), 5, id="just within the share"),
        pytest.param(stream(messages=10, size_bytes=800, first=5), 9, id="300 of 800 bytes are 3.75 messages"),
        pytest.param(stream(messages=10, size_bytes=1000, first=5), 10, id="half of a full stream"),
        pytest.param(stream(messages=1, size_bytes=501, first=5), 6, id="one large message"),
        pytest.param(stream(messages=0, size_bytes=0, first=5), 5, id="an empty stream"),
    ],
)
def test_history_stays_within_half_of_the_stream(state: StreamState, first: int) -> None:
    assert first_within_share(state, 1000) == first


def test_a_stream_is_pressed_from_three_quarters_on() -> None:
    assert [is_pressed(stream(messages=1, size_bytes=size), 1000) for size in (749, 750)] == [False, True]
