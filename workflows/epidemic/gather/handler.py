"""Holds the results of a sweep back until the last of its runs has ended; then they go on together."""


async def handler(ctx, data: dict) -> dict | None:
    request = {"request": ctx.request_id}
    for run in data["runs"]:
        # Under the run's own id: a message that is delivered again counts once.
        await ctx.db.save("runs", {**request, **run}, key=run["runId"])
    sweeps = await ctx.db.find("sweeps", request)
    runs = await ctx.db.find("runs", request)
    # A run that was asked for by itself, with `krt runs submit`, belongs to no sweep.
    if sweeps and len(runs) < len(sweeps[0]["r0"]):
        return None
    return {"runs": [{key: value for key, value in run.items() if key != "_id"} for run in runs]}
