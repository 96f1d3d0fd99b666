"""What a node measures of itself, and how many messages it wants at hand."""

import logging

import pytest

from runtime.clock import FakeClock
from runtime.message import Message
from runtime.node.metrics import MAX_POINTS_PER_SECOND, MAX_PREFETCH, MEASUREMENT, NodeMetrics
from runtime.stores.base import Point, PointCounts

ENTRYPOINT = Message(from_node="entrypoint")
TAGS = {"version": "v1", "workflow": "greeter", "node": "work"}


class Points:
    """Keeps the points that it is given."""

    def __init__(self) -> None:
        self.saved: list[Point] = []
        self.counts = PointCounts()

    def save(self, point: Point) -> None:
        self.saved.append(point)

    async def close(self) -> None: ...


def metrics(points: Points, clock: FakeClock, *, every_call: bool = False) -> NodeMetrics:
    return NodeMetrics(points, clock, TAGS, every_call=every_call)  # type: ignore[arg-type]  # saves and closes


def test_every_call_of_a_quiet_second_is_a_point_with_a_time_of_its_own() -> None:
    points, clock = Points(), FakeClock()
    measured = metrics(points, clock)

    measured.observe(0.001, True, ENTRYPOINT)
    measured.observe(0.002, False, Message(from_node="before"))
    measured.flush()

    assert [(point.measurement, dict(point.fields)) for point in points.saved] == [
        (MEASUREMENT, {"elapsed_ms": 1.0, "success": True}),
        (MEASUREMENT, {"elapsed_ms": 2.0, "success": False}),
    ]
    assert points.saved[1].tags == {**TAGS, "from_node": "before"}
    assert points.saved[1].time_ns == points.saved[0].time_ns + 1


def test_a_busy_second_is_one_point_with_its_distribution() -> None:
    points, clock = Points(), FakeClock()
    measured = metrics(points, clock)

    for number in range(1, 201):
        measured.observe(number / 1000, number % 10 != 0, ENTRYPOINT)
    measured.flush()

    (point,) = points.saved
    assert {key: round(value, 3) for key, value in point.fields.items()} == {  # type: ignore[arg-type]  # no text
        "elapsed_ms": 100.5, "success": False, "count": 200, "errors": 20, "p50_ms": 101.0, "p95_ms": 191.0,
        "max_ms": 200.0,
    }  # fmt: skip


def test_a_bare_runner_writes_every_call() -> None:
    points, clock = Points(), FakeClock()
    measured = metrics(points, clock, every_call=True)

    for _ in range(MAX_POINTS_PER_SECOND * 30):
        measured.observe(0.001, True, ENTRYPOINT)
    measured.flush()

    assert len(points.saved) == MAX_POINTS_PER_SECOND * 30


def test_nothing_measured_is_nothing_written() -> None:
    points = Points()

    metrics(points, FakeClock()).flush()

    assert points.saved == []


async def test_a_tick_writes_once_a_second_and_sums_up_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    points, clock = Points(), FakeClock()
    measured = metrics(points, clock)
    points.counts.retried, points.counts.dropped = 2, 1

    with caplog.at_level(logging.INFO):
        for _ in range(600):
            measured.counts.taken += 1
            measured.counts.ok += 1
            points.counts.written += 1
            measured.observe(0.001, True, ENTRYPOINT)
            await clock.advance(0.125)
            measured.tick(in_hand=3)

    assert len(points.saved) == 600
    summaries = [record for record in caplog.records if getattr(record, "action", "") == "summary"]
    assert [record.getMessage() for record in summaries] == [
        "last minute: 480 taken, 480 ok, 0 retried, 0 dead; 3 in flight; p50 1.0 ms, p95 1.0 ms; "
        "measurements: 480 written, 2 retried, 1 dropped"
    ]


async def test_a_minute_in_which_nothing_happened_is_not_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    measured = metrics(Points(), clock)

    with caplog.at_level(logging.INFO):
        await clock.advance(61)
        measured.tick(in_hand=0)

    assert caplog.records == []


@pytest.mark.parametrize(("seconds", "expected"), [(10.0, 0), (0.05, 32), (0.0, MAX_PREFETCH)])
def test_the_prefetch_is_a_tenth_of_a_second_of_work(seconds: float, expected: int) -> None:
    measured = metrics(Points(), FakeClock())
    assert measured.prefetch(16) == 0

    for _ in range(500):
        measured.observe(seconds, True, ENTRYPOINT)
    measured.counts.ok = 500

    assert measured.prefetch(16) == pytest.approx(expected, abs=1)


def test_lost_measurements_are_told_at_the_end_and_nothing_is_said_of_none(caplog: pytest.LogCaptureFixture) -> None:
    points = Points()
    measured = metrics(points, FakeClock())

    measured.report_dropped()
    points.counts.dropped = 7
    measured.report_dropped()

    assert [record.getMessage() for record in caplog.records] == ["7 measurements were dropped since the start"]
    assert measured.totals() == {
        "taken": 0, "ok": 0, "retried": 0, "dead": 0, "cancelled": 0, "left_out": 0, "batches": 0,
        "points_written": 0, "points_retried": 0, "points_dropped": 7,
    }  # fmt: skip
