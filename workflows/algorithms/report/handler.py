"""Leaves out what differs from call to call."""

from typing import Any


def handler(ctx: Any, data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("version", "time_ms")}
