"""The built-in measurements of KRE's first wire version: times of a node, and on the last one of the whole workflow."""

from collections.abc import Mapping

from runtime import wire_v1
from runtime.clock import Clock
from runtime.message import Message
from runtime.node.metrics import MEASUREMENT, NodeMetrics
from runtime.stores.base import Point, PointStore

WORKFLOW_MEASUREMENT = "workflow_elapsed_time"


class FirstVersionMetrics(NodeMetrics):
    """Writes one point for every message that was handled without a failure, as KRE's runner does.

    A message whose tracking lacks a time, or has one that is not in UTC without a zone, is handled like any other and
    measured by the node alone.
    """

    def __init__(self, points: PointStore, clock: Clock, tags: Mapping[str, str], *, is_last: bool) -> None:
        super().__init__(points, clock, tags, every_call=False)
        self._is_last = is_last

    def observe(self, elapsed_s: float, ok: bool, message: Message) -> None:
        super().observe(elapsed_s, ok, message)
        first = message.first
        if not ok or first is None or not first.tracking:
            return
        started = wire_v1.time_of(first.start_ns)
        before = wire_v1.read_passage(first.tracking[-1])
        if before.end is not None:
            fields: dict[str, float | str] = {
                "tracking_id": first.tracking_id,
                "node_from": before.node,
                "elapsed_ms": elapsed_s * 1000,
                "waiting_ms": (started - before.end).total_seconds() * 1000,
            }
            self._write(MEASUREMENT, fields, self._tags)
        since = wire_v1.read_passage(first.tracking[0]).start
        if self._is_last and since is not None:
            elapsed_ms = ((started - since).total_seconds() + elapsed_s) * 1000
            tags = {name: value for name, value in self._tags.items() if name != "node"}
            self._write(WORKFLOW_MEASUREMENT, {"elapsed_ms": elapsed_ms, "tracking_id": first.tracking_id}, tags)

    def _save(self, fields: Mapping[str, float | int | bool | str], from_node: str, time_ns: int) -> None:
        """Leave out the points of the second wire version."""

    def _write(self, name: str, fields: Mapping[str, float | str], tags: Mapping[str, str]) -> None:
        self._points.save(Point(name, fields, tags, self._clock.time_ns()))
