"""Timer and cron: ticks on their grid, by a clock that stands still."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from runtime.bus.memory import MemoryBroker
from runtime.clock import FakeClock
from runtime.drivers.base import DriverResourcesRequest
from runtime.drivers.flow import Item, Site, Source, Wait
from runtime.drivers.resources import Resources
from runtime.drivers.sources.timer import CronSource, TimerSource


def clock_at(moment: str) -> FakeClock:
    return FakeClock(round(datetime.fromisoformat(moment).timestamp() * 1e9))


async def read(source: Source, clock: FakeClock) -> AsyncIterator[Any]:
    """Yield what a source does, as its driver would wait for it."""
    resources = Resources.bind(DriverResourcesRequest(), {}, listen="", address="", on_change=lambda: None)
    bus = MemoryBroker(clock).connect()
    source.site = Site(ref="tick", driver="timers", stream="s", bus=bus, clock=clock, resources=resources)
    async for found in source.read():  # type: ignore[union-attr]  # built-in ones are async
        if isinstance(found, Wait):
            await clock.advance(found.seconds)
        else:
            yield found


async def test_a_timer_ticks_at_once_and_then_on_its_grid() -> None:
    clock = clock_at("2026-11-21T10:00:00+00:00")
    times = []

    async for found in read(TimerSource(interval="30s", count=4), clock):
        times.append((found["tick"], found["time"]))
        await clock.advance(7.0)

    assert times == [
        (1, "2026-11-21T10:00:00Z"),
        (2, "2026-11-21T10:00:30Z"),
        (3, "2026-11-21T10:01:00Z"),
        (4, "2026-11-21T10:01:30Z"),
    ]


async def test_ticks_that_a_stall_has_missed_are_left_out() -> None:
    clock = clock_at("2026-11-21T10:00:00+00:00")
    times = []

    async for found in read(TimerSource(interval=10, count=3), clock):
        times.append(found["time"])
        if len(times) == 1:
            await clock.advance(35.0)

    assert times == ["2026-11-21T10:00:00Z", "2026-11-21T10:00:35Z", "2026-11-21T10:00:40Z"]


async def test_cron_follows_its_time_zone_over_the_change_of_clocks() -> None:
    clock = clock_at("2026-03-28T12:00:00+00:00")
    source = CronSource(expression="0 6 * * *", timezone="Europe/Amsterdam")
    times = []

    async for found in read(source, clock):
        times.append(found.inputs["time"])
        if len(times) == 2:
            break

    # Six o'clock is 05:00 UTC in winter, and 04:00 from 29 March on.
    assert times == ["2026-03-29T04:00:00Z", "2026-03-30T04:00:00Z"]


async def test_a_cron_tick_is_the_same_request_in_every_replica() -> None:
    ids = []
    for _ in range(2):
        clock = clock_at("2026-11-21T10:00:10+00:00")
        async for found in read(CronSource(expression="*/5 * * * *", inputs=1), clock):
            assert isinstance(found, Item)
            ids.append((found.request_id, found.inputs))
            break

    assert ids == [("timers.tick.2026-11-21T10:05:00Z", 1)] * 2


async def test_cron_times_that_passed_meanwhile_are_left_out() -> None:
    clock = clock_at("2026-11-21T10:00:10+00:00")
    times = []

    async for found in read(CronSource(expression="* * * * *"), clock):
        times.append(found.inputs["time"])
        if len(times) == 2:
            break
        await clock.advance(600.0)

    assert times == ["2026-11-21T10:01:00Z", "2026-11-21T10:12:00Z"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"expression": "60 * * * *"}, "no cron expression"),
        ({"expression": "* * * * *", "timezone": "Mars"}, "no time zone"),
    ],
)
def test_a_wrong_expression_or_zone_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CronSource(**values)
