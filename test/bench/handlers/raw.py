"""The handler of a node that is measured with bytes: some in, the same out."""

from typing import Any


async def handler(ctx: Any, data: bytes) -> bytes:
    return data
