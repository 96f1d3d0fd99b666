"""Stores every prediction beside its true value, and answers."""


async def handler(ctx, verdict: dict) -> dict:
    image, true_label = ctx.headers.get("file", ""), ctx.headers.get("label", "")
    error = "" if true_label else ctx.prediction.ERR_MISSING_VALUES
    extra = {"image": image, "confidence": verdict["confidence"]}
    await ctx.prediction.save(verdict["label"], true_label, extra, error=error)
    return {"image": image, **verdict}
