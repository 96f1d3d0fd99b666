"""Ticks without drift, and pauses that grow."""

import pytest

from runtime.clock import FakeClock
from runtime.drivers.schedule import CATCH_UP_S, Backoff, Schedule


async def test_ticks_lie_on_the_schedule_however_long_sending_took(clock: FakeClock) -> None:
    schedule = Schedule(clock, rate=10)

    assert schedule.wait_s() == 0.0
    await clock.advance(0.03)
    assert schedule.wait_s() == pytest.approx(0.07)
    await clock.advance(0.11)
    assert schedule.wait_s() == pytest.approx(0.06)


async def test_the_rate_holds_over_an_hour(clock: FakeClock) -> None:
    schedule = Schedule(clock, rate=3)

    for _ in range(3 * 3600):
        await clock.advance(schedule.wait_s())

    assert clock.monotonic() == pytest.approx(3600, abs=0.34)


async def test_a_short_lag_is_caught_up_and_a_long_stall_is_not(clock: FakeClock) -> None:
    schedule = Schedule(clock, rate=1000)
    await clock.advance(10.0)

    at_once = 0
    while schedule.wait_s() == 0.0:
        at_once += 1

    assert at_once == pytest.approx(CATCH_UP_S * 1000, abs=2)


async def test_after_a_stall_a_slow_rate_sends_one_and_no_burst(clock: FakeClock) -> None:
    schedule = Schedule(clock, rate=10)
    schedule.wait_s()
    await clock.advance(60.0)

    waits_s = [schedule.wait_s(), schedule.wait_s()]

    assert waits_s == pytest.approx([0.0, 0.1 - CATCH_UP_S])


def test_no_rate_is_always_due(clock: FakeClock) -> None:
    schedule = Schedule(clock, rate=None)

    assert [schedule.wait_s() for _ in range(3)] == [0.0, 0.0, 0.0]


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(first_s=1.0, longest_s=4.0)

    pauses_s = [backoff.next_s() for _ in range(5)]
    backoff.reset()

    for pause_s, longest_s in zip(pauses_s, (1.0, 2.0, 4.0, 4.0, 4.0), strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    assert backoff.next_s() <= 1.0


def test_a_pause_is_as_long_as_the_other_side_asks_for() -> None:
    assert Backoff(first_s=1.0, longest_s=4.0).next_s(at_least_s=60.0) == 60.0
