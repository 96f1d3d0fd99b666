"""The output node."""

from typing import Any


async def handler(ctx: Any, data: dict[str, Any]) -> dict[str, Any]:
    return data
