"""The watchdog of the event loop. Its thread works in real time, so the limits are made short."""

import asyncio
import threading
from pathlib import Path

import pytest

from runtime.node import watchdog
from runtime.node.watchdog import LoopWatchdog


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT_S", 0.05)
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)


async def test_a_held_loop_is_reported_once_with_the_line_that_holds_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reported = threading.Event()
    monkeypatch.setattr(watchdog.log, "warning", report_into(reported, watchdog.log.warning))
    dog = LoopWatchdog()
    dog.start()

    assert reported.wait(5), "nothing was reported"  # this line holds the loop
    dog.stop()

    (record,) = caplog.records
    assert getattr(record, "action", "") == "loop-held"
    assert "threading.py" in record.getMessage() or Path(__file__).name in record.getMessage()


def report_into(reported: threading.Event, warning: object) -> object:
    def report(*arguments: object, **options: object) -> None:
        warning(*arguments, **options)  # type: ignore[operator]  # logging's own method
        reported.set()

    return report


async def test_a_loop_that_runs_is_not_reported_whatever_the_clock_says(caplog: pytest.LogCaptureFixture) -> None:
    dog = LoopWatchdog()
    dog.start()

    await asyncio.sleep(0.2)  # four times the limit, and the loop is free
    dog.stop()

    assert caplog.records == []
