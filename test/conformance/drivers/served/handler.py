"""Adds one to a number, and counts the calls of each state id."""

from dataclasses import dataclass
from typing import Any


@dataclass
class State:
    counter: int = 0


async def handler(ctx: Any, data: dict[str, Any]) -> dict[str, Any]:
    if data.get("fail"):
        raise ValueError("no such number")
    ctx.state.counter += 1
    return {"output": data["input"] + 1, "counter": ctx.state.counter}
