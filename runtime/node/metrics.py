"""What a node measures of itself: the built-in measurement, the minute's summary line, and the prefetch.

Costs per message: an entry of a list, which is added up with the others some times a second. No metric can fail or
delay a message.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from runtime.clock import Clock
from runtime.message import Message
from runtime.stores.base import Point, PointStore

log = logging.getLogger(__name__)

# Handler calls a second that are written one by one; beyond, one point a second says it all.
MAX_POINTS_PER_SECOND = 100
# Calls of one second that are kept for percentiles.
MAX_SAMPLES = 1_000
SUMMARY_S = 60.0
# Weight of the newest call in the mean handling time.
MEAN_WEIGHT = 0.05
# Seconds of work that a runner keeps at hand: enough to hide a round trip, too little to hoard from other replicas.
PREFETCH_S = 0.1
MAX_PREFETCH = 2_000

MEASUREMENT = "node_elapsed_time"
BATCH_MEASUREMENT = "node_batch"


@dataclass(slots=True)
class _Second:
    """The calls of the current second."""

    calls: list[tuple[float, bool, str]] = field(default_factory=list)
    count: int = 0
    errors: int = 0
    sum_s: float = 0.0
    max_s: float = 0.0


@dataclass(slots=True)
class _Batches:
    """The batches of the current second. waited_ms: of the first message of each, added up."""

    count: int = 0
    messages: int = 0
    largest: int = 0
    waited_ms: float = 0.0


@dataclass(slots=True)
class Counts:
    """Deliveries of this process by their end.

    cancelled, left_out: of those that are ok, skipped for their caller has gone, or because they do not fit `when`.
    batches: calls of a handler that takes several messages at once, before any is repeated.
    """

    taken: int = 0
    ok: int = 0
    retried: int = 0
    dead: int = 0
    cancelled: int = 0
    left_out: int = 0
    batches: int = 0


class NodeMetrics:
    """Fed by the runner, flushed by its ticker about once a second."""

    def __init__(self, points: PointStore, clock: Clock, tags: Mapping[str, str], *, every_call: bool) -> None:
        self.counts = Counts()
        self.mean_s = 0.0
        self._points = points
        self._clock = clock
        self._tags = dict(tags)
        self._every_call = every_call
        # What no second has yet.
        self._calls: list[tuple[float, bool, str]] = []
        self._second = _Second()
        self._batches = _Batches()
        self._minute_s: list[float] = []
        self._flushed_s = clock.monotonic()
        self._summed_s = self._flushed_s
        self._last = self.totals()

    def totals(self) -> dict[str, int]:
        """Return what has been counted since the start, by name: deliveries, and points of the store."""
        points = {f"points_{name}": count for name, count in asdict(self._points.counts).items()}
        return {**asdict(self.counts), **points}

    def observe(self, elapsed_s: float, ok: bool, message: Message) -> None:
        """One handler call for `message` is over."""
        self._calls.append((elapsed_s, ok, message.from_node))

    def _add_up(self) -> None:
        """Count what was observed since the last time, together, so that the path of a message has less to do."""
        calls, self._calls = self._calls, []
        if not calls:
            return
        times = [call[0] for call in calls]
        sum_s = sum(times)
        self.mean_s += (sum_s / len(calls) - self.mean_s) * (1 - (1 - MEAN_WEIGHT) ** len(calls))
        second = self._second
        second.count += len(calls)
        second.sum_s += sum_s
        second.max_s = max(second.max_s, *times)
        second.errors += sum(not call[1] for call in calls)
        second.calls += calls if self._every_call else calls[: MAX_SAMPLES - len(second.calls)]

    def observe_batch(self, messages: int, waited_s: float) -> None:
        """A handler that takes several messages at once is called; the first of them has waited for so long."""
        self.counts.batches += 1
        batches = self._batches
        batches.count += 1
        batches.messages += messages
        batches.largest = max(batches.largest, messages)
        batches.waited_ms += waited_s * 1000

    def prefetch(self, concurrency: int) -> int:
        """Return how many messages beyond the free slots are worth having at hand."""
        self._add_up()
        if self.counts.ok == self.counts.cancelled + self.counts.left_out:  # no handler has been measured
            return 0
        return min(MAX_PREFETCH, int(concurrency * PREFETCH_S / max(self.mean_s, 1e-6)))

    def tick(self, in_hand: int) -> None:
        """Write the second's points and, once a minute, the summary."""
        now_s = self._clock.monotonic()
        if now_s - self._flushed_s >= 1.0:
            self._flushed_s = now_s
            self.flush()
        if now_s - self._summed_s >= SUMMARY_S:
            self._summed_s = now_s
            self._log_summary(in_hand)

    def flush(self) -> None:
        """Hand everything measured so far to the point store."""
        self._add_up()
        if self._batches.count:
            self._save_batches()
        second, self._second = self._second, _Second()
        if not second.count:
            return
        time_ns = self._clock.time_ns()
        self._minute_s.extend(call[0] for call in second.calls[:MAX_SAMPLES])
        if self._every_call or second.count <= MAX_POINTS_PER_SECOND:
            for number, (elapsed_s, ok, from_node) in enumerate(second.calls):
                fields: dict[str, float | int | bool | str] = {"elapsed_ms": elapsed_s * 1e3, "success": ok}
                # Points of one series and time replace each other, so each gets a nanosecond of its own.
                self._save(fields, from_node, time_ns + number)
        else:
            self._save(_summary(second), second.calls[0][2], time_ns)

    def _save_batches(self) -> None:
        batches, self._batches = self._batches, _Batches()
        fields: dict[str, float | int | bool | str] = {
            "batches": batches.count,
            "messages": batches.messages,
            "largest": batches.largest,
            "wait_ms": batches.waited_ms / batches.count,
        }
        self._points.save(Point(BATCH_MEASUREMENT, fields, self._tags, self._clock.time_ns()))

    def report_dropped(self) -> None:
        """Say how many measurements were lost, once the store is closed; nobody hears of it otherwise."""
        if dropped := self._points.counts.dropped:
            log.warning("%d measurements were dropped since the start", dropped, extra={"action": "points"})

    def _save(self, fields: Mapping[str, float | int | bool | str], from_node: str, time_ns: int) -> None:
        self._points.save(Point(MEASUREMENT, fields, {**self._tags, "from_node": from_node}, time_ns))

    def _log_summary(self, in_hand: int) -> None:
        totals, last = self.totals(), self._last
        self._last = totals
        times = sorted(self._minute_s)
        self._minute_s = []
        if totals != last:
            minute = {name: total - last[name] for name, total in totals.items()}
            log.info(
                "last minute: %d taken, %d ok, %d retried, %d dead; %d in flight; p50 %.1f ms, p95 %.1f ms; "
                "measurements: %d written, %d retried, %d dropped",
                minute["taken"], minute["ok"], minute["retried"], minute["dead"],
                in_hand, _percentile(times, 0.5) * 1e3, _percentile(times, 0.95) * 1e3,
                minute["points_written"], minute["points_retried"], minute["points_dropped"],
                extra={"action": "summary"},
            )  # fmt: skip


def _summary(second: _Second) -> dict[str, float | int | bool | str]:
    times = sorted(call[0] for call in second.calls)
    return {
        "elapsed_ms": second.sum_s / second.count * 1e3,
        "success": second.errors == 0,
        "count": second.count,
        "errors": second.errors,
        "p50_ms": _percentile(times, 0.5) * 1e3,
        "p95_ms": _percentile(times, 0.95) * 1e3,
        "max_ms": second.max_s * 1e3,
    }


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
