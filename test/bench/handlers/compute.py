"""A handler that computes: about a millisecond of plain Python, so that one process has one core's worth of it."""

from typing import Any

STEPS = 20_000


def handler(ctx: Any, data: dict) -> dict:  # type: ignore[type-arg]  # what a user would write
    total = 0
    for number in range(STEPS):
        total += number * number
    return {**data, "total": total}
