"""Whom an HTTP driver lets in, by what it has measured; on a clock that stands still."""

from dataclasses import dataclass
from typing import Any

import pytest

from runtime.bus.memory import MemoryBroker, MemoryBus
from runtime.clock import FakeClock
from runtime.drivers.http.admission import Admission, Slot
from runtime.drivers.http.answers import Refusal
from test.support.answering_node import stream_config

STREAM = "test_v1_echo"


@dataclass
class Workflow:
    """What admission looks at of a workflow."""

    bus: MemoryBus
    held: bool = False
    stream: str = STREAM


@pytest.fixture
async def workflow(broker: MemoryBroker) -> Workflow:
    bus = broker.connect()
    await bus.ensure_stream(stream_config(STREAM))
    return Workflow(bus)


@pytest.fixture
def admission(workflow: Any, clock: FakeClock) -> Admission:
    return Admission(workflow, lambda: 10, clock)


async def enter(admission: Admission, timeout_s: float = 30.0) -> Slot:
    """Let one request in; a refused one leaves its place."""
    slot = admission.enter()
    try:
        await admission.admit(slot, timeout_s)
    except Refusal:
        slot.close()
        raise
    return slot


def answer(slot: Slot) -> None:
    slot.answered = True
    slot.close()


async def refusal_of(admission: Admission, timeout_s: float = 30.0) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await enter(admission, timeout_s)
    return caught.value


async def queue(admission: Admission, clock: FakeClock, count: int, each_s: float) -> list[Slot]:
    """Let requests in that are answered one after the other; returns those that still wait after half of them."""
    slots = [await enter(admission) for _ in range(count)]
    for slot in slots[: count // 2]:
        await clock.advance(each_s)
        answer(slot)
    return slots[count // 2 :]


async def test_nothing_is_foretold_before_the_first_answer(admission: Admission) -> None:
    slots = [await enter(admission, timeout_s=0.001) for _ in range(10)]

    assert admission.in_flight == len(slots) == 10


async def test_a_request_whose_answer_is_expected_too_late_is_told_when_to_come_again(
    admission: Admission, clock: FakeClock
) -> None:
    await queue(admission, clock, count=10, each_s=1.0)

    refusal = await refusal_of(admission, timeout_s=2.0)
    slot = await enter(admission, timeout_s=10.0)

    assert (refusal.outcome, refusal.status) == ("busy", 429)
    assert refusal.response().headers["Retry-After"] == "4"
    assert slot.load == 6


async def test_a_refused_request_leaves_no_trace(admission: Admission, clock: FakeClock) -> None:
    waiting = await queue(admission, clock, count=10, each_s=1.0)

    await refusal_of(admission, timeout_s=0.5)

    assert admission.in_flight == len(waiting)


async def test_an_idle_driver_lets_in_whatever_it_measured_before(admission: Admission, clock: FakeClock) -> None:
    slot = await enter(admission, timeout_s=60.0)
    await clock.advance(40.0)
    answer(slot)

    assert (await enter(admission, timeout_s=1.0)).load == 1


async def test_requests_that_were_never_answered_say_nothing_about_the_rate(
    admission: Admission, clock: FakeClock
) -> None:
    for slot in [await enter(admission) for _ in range(5)]:
        await clock.advance(30.0)
        slot.close()

    assert admission.expected_wait_s() == 0.0


async def test_a_burst_onto_a_workflow_that_answers_many_at_once_is_let_in(
    admission: Admission, clock: FakeClock
) -> None:
    # Each takes a second, whatever else runs; one at a time was all that has been seen.
    for _ in range(5):
        slot = await enter(admission)
        await clock.advance(1.0)
        answer(slot)

    slots = [await enter(admission, timeout_s=5.0) for _ in range(10)]

    assert len(slots) == 10


async def test_as_many_as_may_be_and_no_more(admission: Admission) -> None:
    slots = [await enter(admission) for _ in range(10)]

    refusal = await refusal_of(admission)
    slots[0].close()

    assert (refusal.status, refusal.retry_after_s) == (429, 2.0)
    assert (await enter(admission)).load == 10


async def test_with_a_full_stream_and_with_nats_away_nothing_is_taken(
    admission: Admission, workflow: Workflow, broker: MemoryBroker, clock: FakeClock
) -> None:
    workflow.held = True
    full = await refusal_of(admission)
    broker.pause()
    still = await refusal_of(admission)
    await clock.advance(2.0)
    away = await refusal_of(admission)

    assert (full.status, full.outcome, full.retry_after_s) == (503, "unavailable", 2.0)
    assert "is full" in full.detail
    assert still is full
    assert (away.status, away.outcome, away.retry_after_s) == (503, "unavailable", 2.0)
    assert "cannot be reached" in away.detail
