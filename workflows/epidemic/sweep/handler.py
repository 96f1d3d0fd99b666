"""Asks for one run of the model for each value of r0; what they have in common goes to all of them."""

from collections.abc import AsyncIterator

# What a request may leave out.
DEFAULTS = {"population": 1_000_000, "infected": 100, "recoveryDays": 7, "days": 180}


async def handler(ctx, data: dict) -> AsyncIterator[dict]:
    common = {**DEFAULTS, **{key: value for key, value in data.items() if key != "r0"}}
    # The node `gather` waits for as many results. Stored before the first run is asked for, so that it is always there.
    await ctx.db.save("sweeps", {"request": ctx.request_id, "r0": data["r0"]})
    for r0 in data["r0"]:
        yield {**common, "r0": r0}
