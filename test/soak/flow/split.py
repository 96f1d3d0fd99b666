"""Two outputs of each message."""

from typing import Any


async def handler(ctx: Any, data: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**data, "part": part} for part in range(2)]
