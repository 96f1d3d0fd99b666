"""Fails for some messages, and keeps a document of others."""

from typing import Any

# One message of so many fails at each attempt, and one of so many is kept as a document: see test/soak/ledger.py.
POISON_EVERY, DOCUMENT_EVERY = 1000, 20


async def handler(ctx: Any, data: dict[str, Any]) -> dict[str, Any]:
    number = data["number"]
    if number % POISON_EVERY == 7:
        raise ValueError("poison")
    if number % DOCUMENT_EVERY == 0:
        await ctx.db.save("numbers", {"number": number})
    return data
